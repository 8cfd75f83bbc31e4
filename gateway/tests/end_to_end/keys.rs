//! ACCEPTANCE W30; THREATS F20: the gateway's key and passphrase are read where only their owner can, and are found nowhere else.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::process::{Process, program, set};
use crate::common::raw::{self, Connect};
use crate::common::{PATIENCE, Stage, V5, http, run, until};
use eyre::{Result, bail, ensure, eyre};
use flytrap_chain::keys::Key;

const PASSPHRASE: &str = "correct horse battery staple";

fn secret(path: &Path, text: &str, mode: u32) -> Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

fn key_command(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(program()).arg("key").args(arguments).stdin(Stdio::null()).output()?)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of this test's own")
}

fn said(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).trim().to_owned()
}

#[test]
fn an_operator_makes_imports_and_reads_a_key_and_no_secret_is_printed() -> Result<()> {
    let place = tempfile::tempdir()?;
    let at = |name: &str| place.path().join(name);
    let (words, made, moved, plain) = (at("words"), at("made"), at("moved"), at("plain"));
    secret(&words, &format!("{PASSPHRASE}\n"), 0o600)?;
    let output =
        key_command(&["new", "--keystore", text(&made), "--passphrase-file", text(&words)])?;
    ensure!(output.status.success(), "{output:?}");
    let address = said(&output.stdout);
    let key = Key::read(&made, Some(&words))?;
    assert_eq!(address, key.address().to_string());
    assert_eq!(fs::metadata(&made)?.permissions().mode() & 0o777, 0o600);

    let other = Key::random();
    let digits = alloy_primitives::hex::encode(other.signer().to_bytes());
    secret(&plain, &digits, 0o600)?;
    let import = ["import", "--keystore", text(&moved), "--passphrase-file", text(&words)];
    let output = key_command(&[&import[..], &["--key-file", text(&plain)]].concat())?;
    ensure!(output.status.success(), "{output:?}");
    assert_eq!(said(&output.stdout), other.address().to_string());
    let shown = ["address", "--keystore", text(&moved), "--passphrase-file", text(&words)];
    assert_eq!(said(&key_command(&shown)?.stdout), other.address().to_string());
    let shown = key_command(&["address", "--key-file", text(&plain)])?;
    assert_eq!(said(&shown.stdout), other.address().to_string());
    for printed in [&output.stdout, &output.stderr, &shown.stdout, &shown.stderr] {
        ensure!(!said(printed).contains(&digits[..16]), "the key is printed");
    }

    // Never overwritten, never read where others can, never without its passphrase.
    let again =
        key_command(&["new", "--keystore", text(&made), "--passphrase-file", text(&words)])?;
    ensure!(!again.status.success() && said(&again.stderr).contains("File exists"), "{again:?}");
    assert_eq!(Key::read(&made, Some(&words))?.address(), key.address());
    for (file, mode) in [(&words, 0o640), (&made, 0o644)] {
        fs::set_permissions(file, fs::Permissions::from_mode(mode))?;
        let refused = key_command(&[
            "address",
            "--keystore",
            text(&made),
            "--passphrase-file",
            text(&words),
        ])?;
        let told = said(&refused.stderr);
        ensure!(!refused.status.success() && told.contains("chmod 600"), "{told}");
        fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    }
    let alone = key_command(&["address", "--keystore", text(&made)])?;
    ensure!(said(&alone.stderr).contains("at a terminal"), "{alone:?}");
    Ok(())
}

/// At a terminal of its own (`script` makes one), as `words` are typed into it.
fn at_a_terminal(command: &str, words: &[&str]) -> Result<String> {
    let mut child = Command::new("script")
        .args(["--quiet", "--echo", "always", "--command", command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut typed = child.stdin.take().ok_or_else(|| eyre!("no input"))?;
    let mut shown = child.stdout.take().ok_or_else(|| eyre!("no output"))?;
    let (mut all, started) = (Vec::new(), Instant::now());
    for words in words {
        // Each is typed once it is asked for: what is typed before is thrown away, and shown.
        let asked = all.len();
        while !all[asked..].ends_with(b": ") {
            ensure!(started.elapsed() < PATIENCE, "not asked: {}", said(&all));
            let mut octets = [0; 256];
            match shown.read(&mut octets)? {
                0 => bail!("it ended: {}", said(&all)),
                some => all.extend_from_slice(&octets[..some]),
            }
        }
        // The question is printed a moment before the terminal shows no more, and nobody types that fast.
        std::thread::sleep(Duration::from_millis(200));
        typed.write_all(words.as_bytes())?;
        typed.write_all(b"\n")?;
        typed.flush()?;
    }
    shown.read_to_end(&mut all)?;
    child.wait()?;
    Ok(said(&all))
}

#[test]
fn a_passphrase_is_typed_at_a_terminal_and_not_shown() -> Result<()> {
    let place = tempfile::tempdir()?;
    let made = place.path().join("made");
    let program = program();
    let new = format!("{} key new --keystore {}", program.display(), made.display());
    let shown = at_a_terminal(&new, &[PASSPHRASE, "another"])?;
    ensure!(shown.contains("differ") && !made.exists(), "{shown}");
    let shown = at_a_terminal(&new, &[PASSPHRASE, PASSPHRASE])?;
    ensure!(made.exists() && !shown.contains("horse"), "{shown}");
    let address = format!("{} key address --keystore {}", program.display(), made.display());
    let shown = at_a_terminal(&address, &[PASSPHRASE])?;
    let words = place.path().join("words");
    secret(&words, PASSPHRASE, 0o600)?;
    let wanted = Key::read(&made, Some(&words))?.address().to_string();
    ensure!(shown.contains(&wanted) && !shown.contains("horse"), "{shown}");
    let shown = at_a_terminal(&address, &["correct house"])?;
    ensure!(shown.contains("is this its passphrase?"), "{shown}");
    Ok(())
}

/// Everything in and below a directory.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() { all.extend(files(&path)?) } else { all.push(path) }
    }
    Ok(all)
}

fn holds(octets: &[u8], wanted: &[u8]) -> bool {
    octets.windows(wanted.len()).any(|window| window == wanted)
}

/// As it came, and as a program would print octets.
fn shapes(secret: &[u8]) -> Vec<Vec<u8>> {
    let digits = alloy_primitives::hex::encode(secret);
    let list = secret.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    vec![
        secret.to_vec(),
        digits.to_uppercase().into_bytes(),
        digits.into_bytes(),
        list.into_bytes(),
    ]
}

#[test]
fn key_and_passphrase_are_nowhere_to_be_found_once_the_gateway_has_read_them() -> Result<()> {
    run(async {
        let stage = Stage::configured("[limits]\nfailures = 0").await?;
        let (keystore, words) =
            (stage.site.dir().join("gateway.json"), stage.site.dir().join("words"));
        secret(&words, &format!("{PASSPHRASE}\n"), 0o600)?;
        let key = &stage.site.wallets.gateway;
        key.write_keystore(&keystore, Some(&words))?;
        let (config, state) = stage.write_config("scanned", |table| {
            if let Some(gateway) = table["gateway"].as_table_mut() {
                gateway.remove("key_file");
            }
            set(table, "gateway", "keystore", text(&keystore));
            set(table, "gateway", "passphrase_file", text(&words));
        })?;
        stage.site.gateway()?.child.terminate();
        let mut command = Command::new(program());
        command.arg("run").arg("--config").arg(&config).env("FLYTRAP_LOG", "trace");
        let child = stage.site.spawn("scanned", command)?;
        let (log, pid) = (child.log_file().to_owned(), child.id());
        let mut gateway = Process { child, config: config.clone(), state: state.clone() };
        let health = gateway.health().await?;
        until("readiness", || async {
            Ok((http::get(health, "/readyz").await?.0 == 200).then_some(()))
        })
        .await?;
        // It signs, so that what is searched for has been used.
        let connect = Connect::of(V5, &stage.wrong_proof("failing")?);
        let from = std::net::IpAddr::from([127, 0, 0, 9]);
        raw::attempt(V5, from, gateway.listener("mqtt").await?, &connect).await?;
        until("the ban to be confirmed", || async {
            let is_told = holds(&fs::read(&log)?, b"transaction confirmed");
            Ok((is_told && !stage.origin_bans().await?.is_empty()).then_some(()))
        })
        .await?;

        let proc = |name: &str| fs::read(format!("/proc/{pid}/{name}"));
        let mut places = vec![
            ("log".to_owned(), fs::read(&log)?),
            ("arguments".to_owned(), proc("cmdline")?),
            ("environment".to_owned(), proc("environ")?),
            ("configuration".to_owned(), fs::read(&config)?),
        ];
        for path in ["/metrics", "/readyz", "/healthz"] {
            places.push((path.to_owned(), http::get(health, path).await?.1.into_bytes()));
        }
        let kept = files(&state)?;
        ensure!(kept.iter().any(|file| file.ends_with("submitter/landed.json")), "{kept:?}");
        // What can be read; the control socket holds nothing, and what the gateway has just removed is gone.
        for file in kept.into_iter().filter(|file| file.is_file()) {
            match fs::read(&file) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                octets => places.push((file.display().to_string(), octets?)),
            }
        }
        ensure!(holds(&places[0].1, b"TRACE"));
        ensure!(holds(&places[1].1, b"--config"), "an empty command line proves nothing");

        let secrets = [key.signer().to_bytes().to_vec(), PASSPHRASE.as_bytes().to_vec()];
        for (secret, (place, octets)) in
            secrets.iter().flat_map(|s| places.iter().map(move |p| (s, p)))
        {
            for shape in shapes(secret) {
                ensure!(!holds(octets, &shape), "{place} holds a secret");
            }
        }

        // No core file, and nobody of this user reads its memory: what the kernel shows of it belongs to root.
        let limits = String::from_utf8(proc("limits")?)?;
        let core = limits.lines().find(|line| line.starts_with("Max core file size"));
        let core: Vec<&str> = core.unwrap_or_default().split_whitespace().collect();
        assert_eq!(core.get(4..6), Some(&["0", "0"][..]), "{limits}");
        assert_eq!(fs::metadata(format!("/proc/{pid}/environ"))?.uid(), 0);
        Ok(())
    })
}

#[test]
fn a_process_that_is_aborted_with_the_key_in_memory_leaves_no_core_file() -> Result<()> {
    run(async {
        let stage = Stage::new().await?;
        let place = tempfile::tempdir()?;
        let (config, state) = stage.write_config("aborted", |_| ())?;
        let mut command = Command::new("sh");
        // As generous as the machine allows, and where it would be seen.
        command
            .current_dir(place.path())
            .args(["-c", "ulimit -c unlimited; exec \"$0\" run \"$1\""]);
        command.arg(program()).arg(&config);
        let child = stage.site.spawn("aborted", command)?;
        let mut gateway = Process { child, config, state };
        gateway.health().await?;
        let pid = gateway.child.id();
        let status = Command::new("sh").args(["-c", &format!("kill -ABRT {pid}")]).status()?;
        ensure!(status.success());
        let ended = gateway.child.wait(PATIENCE).await?;
        ensure!(!ended.success(), "{ended}");
        use std::os::unix::process::ExitStatusExt;
        assert_eq!((ended.signal(), ended.core_dumped()), (Some(6), false));
        assert_eq!(files(place.path())?, Vec::<PathBuf>::new());
        Ok(())
    })
}
