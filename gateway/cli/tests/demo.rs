//! `flytrap demo`: the tour holds, notices a gateway that guards nothing, and leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The demo, with a folder of its own for temporary files, so that what it leaves can be seen.
fn demo(words: &[&str], temporary: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flytrap"));
    command.arg("demo").args(words).env("TMPDIR", temporary.path());
    command
}

/// Files in the folder, and processes that mention it on their command line.
fn left_behind(temporary: &Path) -> Vec<String> {
    let mut left: Vec<String> = fs::read_dir(temporary)
        .expect("a folder")
        .flatten()
        .map(|file| file.path().display().to_string())
        .collect();
    let name = temporary.display().to_string();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(&name) {
            left.push(command);
        }
    }
    left
}

fn assert_nothing_left(temporary: &TempDir) {
    let deadline = Instant::now() + Duration::from_secs(10);
    // What was killed may take a moment until nobody sees it any more.
    while !left_behind(temporary.path()).is_empty() {
        assert!(Instant::now() < deadline, "{:#?}", left_behind(temporary.path()));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn every_claim_holds(words: &[&str]) -> String {
    let temporary = tempfile::tempdir().expect("a folder");
    let output = demo(words, &temporary).output().expect("the program");
    let (told, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{told}\n{errors}", output.status);
    assert!(told.contains("claims held") && !told.contains("NOT SO"), "{told}");
    assert!(!told.contains('\x1b'), "colour although this is no terminal");
    assert_nothing_left(&temporary);
    told.into_owned()
}

#[test]
fn every_claim_of_the_tour_holds_with_mosquitto_and_nothing_is_left_behind() {
    let told = every_claim_holds(&["--once"]);
    assert!(told.contains("Mosquitto"), "{told}");
}

#[test]
fn every_claim_of_the_tour_holds_with_broker_and_client_from_npm() {
    let told = every_claim_holds(&["--once", "--npm"]);
    assert!(told.contains("aedes") && told.contains("mqtt.js"), "{told}");
}

#[test]
fn a_gateway_that_guards_nothing_fails_the_tour() {
    let temporary = tempfile::tempdir().expect("a folder");
    let program = tempfile::tempdir().expect("a folder");
    let file = program.path().join("open-door.mjs");
    fs::write(&file, include_str!("open_door.mjs")).expect("a script");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("a mode");
    let output = demo(&["--once"], &temporary)
        .env("FLYTRAP_GATEWAY_BIN", &file)
        .output()
        .expect("the program");
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let harms = [
        "SUBACK 0x01",
        "PUBACK 0x00",
        "the broker was sent none of his SUBSCRIBEs",
        "the broker was sent none of his message",
        "password never went to the broker",
        "the reader did not get it",
        "the ban is on chain",
    ];
    for harm in harms {
        let noticed = told.lines().any(|line| line.contains("NOT SO") && line.contains(harm));
        assert!(noticed, "{harm}: {told}");
    }
    assert_nothing_left(&temporary);
}

#[test]
fn the_site_stays_up_with_commands_to_try_until_it_is_interrupted() {
    let temporary = tempfile::tempdir().expect("a folder");
    let mut running = demo(&[], &temporary).stdout(Stdio::piped()).spawn().expect("the program");
    let mut told = Vec::new();
    let out = BufReader::new(running.stdout.take().expect("its output"));
    for line in out.lines().map_while(Result::ok) {
        let last = line.contains("audit topic");
        told.push(line);
        if last {
            break;
        }
    }
    let told = told.join("\n");
    // Copied from the screen, a command works: the reader who has bought gets what the owner publishes.
    let line = |word: &str| {
        told.lines().find(|line| line.starts_with(word)).unwrap_or_else(|| panic!("{word}: {told}"))
    };
    let shell = |command: &str| Command::new("sh").args(["-c", command]).output().expect("a shell");
    let receive = format!("{} -C 1 -W 20 -E & wait", line("mosquitto_sub").replace(" -v", ""));
    assert!(shell(&receive.replace(" -C 1", "")).status.success(), "{receive}");
    let publish = shell(line("mosquitto_pub"));
    assert!(publish.status.success(), "{}", String::from_utf8_lossy(&publish.stderr));
    let audit = told.lines().rev().find(|line| line.contains("audit topic")).expect("a command");
    assert!(String::from_utf8_lossy(&shell(audit).stdout).contains("registered topic"), "{audit}");

    let interrupt = Command::new("kill").args(["-INT", &running.id().to_string()]).status();
    assert!(interrupt.expect("kill").success());
    assert!(running.wait().expect("an end").success());
    assert_nothing_left(&temporary);
}
