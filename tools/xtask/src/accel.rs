//! KVM where it runs our kernel, else emulation.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

/// Emulation with a thread per CPU.
const EMULATION: &str = "tcg,thread=multi";
/// Time given to the trial; where KVM works it takes less than a second.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the kernel prints in the end, since the trial has no root.
const LAST_WORDS: &str = "Kernel panic";

/// The accelerator for `kernel` on this machine.
///
/// On a machine that is itself virtual, a KVM may run the firmware and stop at an instruction of the
/// kernel, so the trial is the kernel itself: without a root, until its last words.
pub(crate) fn choose(kernel: &Path) -> &'static str {
    if OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return EMULATION;
    }
    if is_run_by_kvm(kernel) {
        return "kvm";
    }
    eprintln!("xtask: KVM of this machine does not run the kernel, QEMU emulates");
    EMULATION
}

/// The CPU model to go with an accelerator.
pub(crate) fn cpu(accel: &str) -> &'static str {
    if accel.starts_with("kvm") { "host" } else { "max,-erms,-fsrm" }
}

fn is_run_by_kvm(kernel: &Path) -> bool {
    let mut trial = Command::new("qemu-system-x86_64");
    trial.args(["-M", "q35", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    trial.args(["-accel", "kvm", "-cpu", cpu("kvm"), "-m", "256", "-serial", "stdio"]);
    trial.arg("-kernel").arg(kernel).args(["-append", "console=ttyS0 panic=-1"]);
    trial.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = trial.spawn() else {
        return false;
    };
    let verdict = verdict(&mut child);
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
    verdict
}

/// Whether the kernel's last words come; KVM's own are an early no.
fn verdict(child: &mut Child) -> bool {
    let (sender, receiver) = mpsc::channel();
    if let Some(console) = child.stdout.take() {
        watch(console, LAST_WORDS, true, sender.clone());
    }
    if let Some(errors) = child.stderr.take() {
        watch(errors, "KVM internal error", false, sender);
    }
    // An error is the end of the patience, or of QEMU.
    receiver.recv_timeout(PATIENCE).unwrap_or(false)
}

/// Sends `verdict` once a line of `stream` holds `sign`.
fn watch(stream: impl Read + Send + 'static, sign: &'static str, verdict: bool, to: Sender<bool>) {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            if String::from_utf8_lossy(&line).contains(sign) {
                // Nobody listens once the other stream has decided.
                let _ = to.send(verdict);
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict_of(script: &str) -> bool {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let Ok(mut child) = shell.spawn() else { return false };
        let verdict = verdict(&mut child);
        let _ = child.kill();
        let _ = child.wait();
        verdict
    }

    #[test]
    fn the_kernels_last_words_decide() {
        assert!(verdict_of(
            "echo booting; echo 'Kernel panic - not syncing: no root'; exec sleep 60"
        ));
        assert!(!verdict_of(
            "echo booting; echo 'KVM internal error. Suberror: 1' >&2; exec sleep 60"
        ));
        assert!(!verdict_of("echo no such accelerator >&2; exit 1"));
    }
}
