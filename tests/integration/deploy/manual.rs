//! The manual page and what shells complete, read by man and by bash.

use std::process::Command;

use super::{content, subcommands};
use crate::harness::program;

/// The long options of a command, as its help lists them.
fn options(command: &str) -> Vec<String> {
    let help = content(program(), &[command, "--help"]);
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let words = lines.flat_map(|line| line.split([' ', ',', '=']));
    words.filter(|word| word.starts_with("--")).map(str::to_owned).collect()
}

/// What bash offers behind these words.
fn completed(words: &[&str]) -> Vec<String> {
    let script = r#"
        complete() { :; }
        source <("$0" completions bash)
        COMP_WORDS=(lockstep "$@"); COMP_CWORD=$#
        _lockstep lockstep "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let output = Command::new("bash").args(["-euc", script, program()]).args(words).output().expect("bash");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_every_command_and_every_option() {
    let offered = completed(&[""]);
    for command in subcommands() {
        assert!(offered.contains(&command), "{command}: {offered:?}");
        // `help` takes commands alone.
        if command == "help" {
            continue;
        }
        let offered = completed(&[&command, "--"]);
        for option in options(&command) {
            assert!(offered.contains(&option), "{command} {option}: {offered:?}");
        }
    }
    assert_eq!(completed(&["ver"]), ["verify"]);
    assert!(completed(&["completions", ""]).contains(&"zsh".to_owned()));
}

#[test]
fn every_shell_gets_a_script_that_names_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = content(program(), &["completions", shell]);
        for command in subcommands() {
            assert!(script.contains(&command), "{shell}: {command}");
        }
    }
}

#[test]
fn the_manual_page_is_rendered_without_a_warning_and_names_every_command_and_option() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("lockstep.1");
    std::fs::write(&file, content(program(), &["man"])).expect("the page is written");
    let arguments = ["-man", "-Tutf8", "-ww", "-P-cbou", file.to_str().expect("a path")];
    let output = Command::new("groff").args(arguments).output().expect("groff; tests/run installs it");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let shown = String::from_utf8_lossy(&output.stdout).replace(['\u{2010}', '\u{2212}'], "-");
    let mut parts = shown.split("\nlockstep ").skip(1);
    for command in subcommands().iter().filter(|command| *command != "help") {
        let part = parts.next().unwrap_or_else(|| panic!("{command} has no section: {shown}"));
        assert!(part.starts_with(command.as_str()), "{command}: {part}");
        // The synopsis names every option too, and says nothing of it.
        let (_, explained) = part.split_once("OPTIONS").unwrap_or_else(|| panic!("{command}: {part}"));
        for option in options(command) {
            assert!(explained.contains(&option), "{command} {option}: {part}");
        }
    }
}
