//! Redis over TLS, with a certificate that no public authority knows.

use std::path::Path;

use crate::harness::process::folder;
use crate::harness::tls::Certificates;
use crate::harness::{Lockstep, On, Setup, World};

async fn world() -> World {
    let mut setup = Setup::on(On::Single);
    setup.redis.tls = true;
    World::set_up(setup).await
}

/// The same configuration, with the authority in the environment.
fn trusting(world: &World, authority: &Path) -> Lockstep {
    let lockstep = Lockstep::new(&world.postgres.url(), &world.store.urls(), "");
    lockstep.with_environment("LOCKSTEP_REDIS_ROOT_CERT", &authority.display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_is_trusted_where_it_is_named() {
    let world = world().await;
    let authority = world.store.single().certificates().authority.clone();
    let named = format!("[redis]\nroot_cert = {authority:?}\n");
    world.lockstep.configure(&world.lockstep.configuration().replace("[redis]\n", &named));
    world.lockstep.init().await;
    world.user("live", 7, "100").await;
    world.lockstep.run().await;
    world.credit(7, "1").await;
    world.caught_up().await;
    world.assert_equal().await;
    trusting(&world, &authority).succeed(&["check"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_authority_is_refused_with_its_cure() {
    let world = world().await;
    world.lockstep.init().await;
    let elsewhere = folder("authority-");
    let other = Certificates::write(elsewhere.path(), "other");
    let lockstep = trusting(&world, &other.authority);
    for (command, code) in [("check", 3), ("run", 1), ("status", 1)] {
        let ended = lockstep.finish(&[command]).await;
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.code, Some(code), "{said}");
        let fact =
            format!("the certificate of redis 127.0.0.1:{} is not trusted", world.store.single().port());
        assert!(said.contains(&fact) && said.contains("redis.root_cert"), "{said}");
    }
    let missing = trusting(&world, Path::new("/nowhere/authority.pem")).finish(&["run"]).await;
    assert!(missing.code == Some(1) && missing.stderr.contains("/nowhere/authority.pem"), "{missing:?}");
}
