use super::*;

fn read(text: &str, env: &[(&str, &str)]) -> Result<(Postgres, Vec<String>), Vec<String>> {
    let lookup = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Postgres::read((!text.is_empty()).then_some(text), &lookup)
}

fn tcp(host: &str, port: u16) -> Endpoint {
    Endpoint::Tcp(host.to_owned(), port)
}

#[test]
fn nothing_given_is_the_local_socket() {
    let (postgres, warnings) = read("", &[("USER", "ann")]).unwrap();
    let debian = Endpoint::Unix("/var/run/postgresql/.s.PGSQL.5432".into());
    assert_eq!(postgres.endpoints, [debian, Endpoint::Unix("/tmp/.s.PGSQL.5432".into())]);
    assert_eq!((postgres.user.as_str(), postgres.database.as_str()), ("ann", "ann"));
    assert_eq!((postgres.slot.as_str(), postgres.publication.as_str()), ("lockstep", "lockstep"));
    assert_eq!((postgres.tls, postgres.password), (TlsMode::Prefer, None));
    assert!(warnings.is_empty());
}

#[test]
fn a_url_and_keywords_say_the_same() {
    let url = "postgresql://ann:p%40ss@db1:5433,db2:5434/bank?sslmode=verify-full&sslrootcert=%2Fca%20x.pem\
               &connect_timeout=3&application_name=copy";
    let keywords = "host=db1,db2 port=5433,5434 user=ann password='p@ss' dbname = bank sslmode=verify-full \
                    sslrootcert='/ca x.pem' connect_timeout=3 application_name=copy";
    for text in [url, keywords] {
        let (postgres, _) = read(text, &[("PGHOST", "elsewhere"), ("PGPASSWORD", "other")]).unwrap();
        assert_eq!(postgres.endpoints, [tcp("db1", 5433), tcp("db2", 5434)]);
        assert_eq!(postgres.password.unwrap().expose(), "p@ss");
        assert_eq!((postgres.user.as_str(), postgres.database.as_str()), ("ann", "bank"));
        assert_eq!((postgres.tls, postgres.root_cert), (TlsMode::VerifyFull, Some("/ca x.pem".into())));
        assert_eq!(postgres.connect_timeout, Duration::from_secs(3));
        assert_eq!(postgres.application_name, "copy");
    }
}

#[test]
fn the_environment_fills_what_is_left_out() {
    let env = [
        ("PGHOST", "/run/pg"),
        ("PGPORT", "6000"),
        ("PGUSER", "bob"),
        ("PGDATABASE", "bank"),
        ("PGPASSWORD", "secret"),
        ("PGSSLMODE", "require"),
        ("PGCONNECT_TIMEOUT", "7"),
        ("PGAPPNAME", "named"),
        ("PGSSLCERT", "/c.pem"),
        ("PGSSLKEY", "/k.pem"),
    ];
    let (postgres, _) = read("", &env).unwrap();
    assert_eq!(postgres.endpoints, [Endpoint::Unix("/run/pg/.s.PGSQL.6000".into())]);
    assert_eq!((postgres.user.as_str(), postgres.database.as_str()), ("bob", "bank"));
    assert_eq!(postgres.password.unwrap().expose(), "secret");
    assert_eq!((postgres.tls, postgres.application_name.as_str()), (TlsMode::Require, "named"));
    assert_eq!(postgres.connect_timeout, Duration::from_secs(7));
    assert_eq!(postgres.client_cert, Some(("/c.pem".into(), "/k.pem".into())));

    let (postgres, _) = read("postgres://db/bank", &env).unwrap();
    assert_eq!(postgres.endpoints, [tcp("db", 6000)], "a URL without a port takes PGPORT");
    let (postgres, _) = read("postgres://[::1]:7000/bank", &env).unwrap();
    assert_eq!(postgres.endpoints, [tcp("::1", 7000)]);
}

#[test]
fn every_mistake_is_told_at_once_and_without_values() {
    let text = "postgres://ann:hunter2@db/x?sslmode=sure&tcp=1&connect_timeout=soon&sslcert=/c";
    let mistakes = read(text, &[]).unwrap_err();
    assert_eq!(mistakes.len(), 4, "{mistakes:?}");
    let all = mistakes.join("\n");
    for word in ["sslmode", "\"tcp\"", "connect_timeout", "sslkey"] {
        assert!(all.contains(word), "{word} in {all}");
    }
    assert!(!all.contains("hunter2"));
    assert_eq!(read("mysql://db", &[("USER", "a")]).unwrap_err().len(), 1);
    assert_eq!(read("host='db", &[("USER", "a")]).unwrap_err().len(), 1);
    assert_eq!(read("host=a,b,c port=1,2", &[("USER", "a")]).unwrap_err().len(), 1);
    assert_eq!(read("", &[]).unwrap_err().len(), 1, "no role");
}

#[test]
fn the_system_roots_demand_a_full_check() {
    let (postgres, _) = read("host=db user=a sslrootcert=system", &[]).unwrap();
    assert_eq!((postgres.tls, postgres.root_cert), (TlsMode::VerifyFull, None));
    assert!(read("host=db user=a sslrootcert=system sslmode=require", &[]).is_err());
}

#[test]
fn the_password_file_is_read_unless_others_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pass");
    std::fs::write(&file, "# all\ndb:5432:*:bob:wrong\ndb:*:bank:ann:a\\:b\\\\c\nlocalhost:*:*:*:local\n")
        .unwrap();
    let env = [("PGPASSFILE", file.to_str().unwrap())];
    let allow = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();

    allow(0o600);
    let password = |text: &str| read(text, &env).unwrap().0.password.map(|p| p.expose().to_owned());
    assert_eq!(password("postgres://ann@db/bank").as_deref(), Some("a:b\\c"));
    assert_eq!(password("postgres://ann@db/other"), None);
    assert_eq!(password("user=ann dbname=bank").as_deref(), Some("local"));

    allow(0o640);
    let (postgres, warnings) = read("postgres://ann@db/bank", &env).unwrap();
    assert_eq!(postgres.password, None);
    assert!(warnings[0].contains("chmod 600"), "{warnings:?}");
}

#[test]
fn an_address_stands_beside_its_name() {
    let at =
        |address: &str, host: &str, port| Endpoint::Address(address.parse().unwrap(), host.to_owned(), port);
    for text in ["postgres://ann@db:5433/x?hostaddr=10.0.0.7", "host=db hostaddr=10.0.0.7 port=5433 user=ann"]
    {
        assert_eq!(read(text, &[]).unwrap().0.endpoints, [at("10.0.0.7", "db", 5433)]);
    }
    let (postgres, _) = read("user=ann hostaddr=::1,10.0.0.8 options='-c a=b'", &[]).unwrap();
    assert_eq!(postgres.endpoints, [at("::1", "::1", 5432), at("10.0.0.8", "10.0.0.8", 5432)]);
    assert_eq!(
        postgres.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["[::1]:5432", "10.0.0.8:5432"]
    );
    assert_eq!(postgres.options.as_deref(), Some("-c a=b"));
    let env = [("PGHOSTADDR", "10.0.0.9"), ("PGOPTIONS", "-c c=d")];
    let (postgres, _) = read("postgres://ann@db/x", &env).unwrap();
    assert_eq!(
        (postgres.endpoints.as_slice(), postgres.options.as_deref()),
        ([at("10.0.0.9", "db", 5432)].as_slice(), Some("-c c=d"))
    );
    assert_eq!(read("host=a,b hostaddr=10.0.0.7 user=ann", &[]).unwrap_err().len(), 1);
    assert_eq!(read("host=a user=ann", &[("PGHOSTADDR", "db")]).unwrap_err().len(), 1);
}

#[test]
fn slot_names_are_checked() {
    assert!(slot_name("lockstep_2").is_ok());
    for wrong in ["", "Lockstep", "a-b", "a b", &"a".repeat(64)] {
        assert!(slot_name(wrong).is_err(), "{wrong}");
    }
}
