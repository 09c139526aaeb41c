//! Running programs, and installing the ones that are missing.

use crate::{Failure, Result};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Runs a command; an exit status other than zero is a failure.
pub(crate) fn run(command: &mut Command) -> Result {
    let status = command
        .status()
        .map_err(|error| format!("{}: {error}", command.get_program().to_string_lossy()))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{} failed ({status})", command.get_program().to_string_lossy()).into())
}

/// Runs a command for what it prints.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .map_err(|error| format!("{}: {error}", command.get_program().to_string_lossy()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} failed: {}", command.get_program().to_string_lossy(), text.trim()).into())
}

/// Whether a program is in one of the directories that root searches.
pub(crate) fn has_program(name: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"])
        .any(|dir| std::path::Path::new(dir).join(name).is_file())
}

/// A command whose search path includes the administrator's directories.
pub(crate) fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// Makes sure that programs exist: `(program, Debian package)`. Installs what is missing with apt
/// when run as root, and says what to install otherwise.
pub(crate) fn ensure_programs(wanted: &[(&str, &str)]) -> Result {
    // One apt at a time.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|(program, _)| !has_program(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let is_root = output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    if !is_root || !has_program("apt-get") {
        return Err(format!("please install: {}", missing.join(" ")).into());
    }
    eprintln!("xtask: installing {}", missing.join(" "));
    let mut install = Command::new("apt-get");
    install
        .args(["-y", "-qq", "--no-install-recommends", "install"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(std::process::Stdio::null());
    if run(&mut install).is_err() {
        run(Command::new("apt-get").args(["-qq", "update"]))?;
        run(&mut install).map_err(|_| Failure::from(format!("cannot install {missing:?}")))?;
    }
    Ok(())
}
