//! The targets of the fuzzer hold for what real servers said and for what once broke them.

#[path = "../fuzz/targets/mod.rs"]
mod targets;

use targets::{Target, regressions};

fn every_kept_input_holds(name: &str) {
    let Target { run, seeds, words, .. } =
        targets::TARGETS.iter().find(|target| target.name == name).expect("a target");
    let seeds = seeds();
    assert!(!seeds.is_empty(), "nothing was recorded for {name}");
    seeds.iter().for_each(|input| run(input));
    words.iter().for_each(|word| run(word.as_bytes()));
    for (path, input) in regressions(name) {
        println!("{}", path.display());
        run(&input);
    }
    // Every input may end anywhere.
    for input in seeds.iter().filter(|input| input.len() < 4_096) {
        (0..input.len()).step_by(7).for_each(|end| run(&input[..end]));
    }
}

macro_rules! targets {
    ($($name:ident)+) => {$(
        #[test]
        fn $name() {
            every_kept_input_holds(stringify!($name));
        }
    )+
        #[test]
        fn every_target_is_replayed() {
            let replayed = [$(stringify!($name)),+];
            assert!(targets::TARGETS.iter().all(|target| replayed.contains(&target.name)));
        }
    };
}

targets!(decoder load redis config keys wire);
