//! What the language takes, and what it tells of mistakes.

use super::*;

fn mistakes(text: &str) -> String {
    let faults = KeyMapSpec::from_toml(text).unwrap_err();
    faults.iter().map(|fault| format!("{fault}\n")).collect()
}

#[test]
fn the_built_in_map_is_written_in_the_language() {
    let spec = KeyMapSpec::from_toml(BUILT_IN).unwrap();
    assert!(spec.steps.len() >= 8);
    let ActionSpec::Hash { key, columns, .. } = &spec.steps[0].action else { panic!("not a hash") };
    assert_eq!((key.as_str(), columns), ("user:{$type:$id}:config", &Columns::All));
}

#[test]
fn every_mistake_is_reported_at_once() {
    let text = r#"
        [[keys]]
        hash = "h:$type:$id"
        colums = "all"
        if_exists = "yes"
        [[keys]]
        string = "s:$type:$id"
        ttl = "1 fortnight"
        on = ["whenever"]
        [[keys]]
        delete = []
        hash = "x"
        [[keys]]
        publish = "c"
        payload = 3
        when = { "transaction.type" = 1 }
        [[keys]]
        on = "loaded"
    "#;
    let told = mistakes(text);
    for fact in [
        "entry 1 is a hash without fields",
        "entry 1 has an if_exists that is not a boolean",
        "entry 1 has the unknown key \"colums\"",
        "entry 2 has no value",
        "entry 2 has a ttl that is not a time",
        "entry 2 waits on \"whenever\"",
        "entry 3 has hash and delete",
        "entry 4 has a payload",
        "entry 4 compares transaction.type",
        "entry 5 has no action",
    ] {
        assert!(told.contains(fact), "{fact} is not in\n{told}");
    }
}

#[test]
fn a_text_without_a_key_map_is_refused() {
    assert!(mistakes("keys = 1").contains("not an array of tables"));
    assert!(mistakes("").contains("no [[keys]]"));
    assert!(mistakes("[[keys").contains("no TOML"));
}

#[test]
fn times_have_units() {
    assert_eq!(time_to_live("3600s"), Some(Duration::from_secs(3600)));
    assert_eq!(time_to_live("1d"), Some(Duration::from_secs(86_400)));
    for wrong in ["", "s", "3600", "-1s", "0s", "1w", "99999999999999999999s", "9999999d"] {
        assert_eq!(time_to_live(wrong), None, "{wrong}");
    }
}
