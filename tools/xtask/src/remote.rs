//! A guest's shell from this machine, by OpenSSH through a forwarded port: commands, and files both ways.

use crate::{Result, shell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Seconds that a connection gets to be made, on an emulated processor.
const CONNECT: &str = "ConnectTimeout=60";

/// How to reach the guest: a key of its own, known to nobody else, and the port of this machine.
pub(crate) struct Remote {
    key: PathBuf,
    port: u16,
}

impl Remote {
    /// Makes the key, in `directory`.
    pub(crate) fn new(directory: &Path) -> Result<Remote> {
        shell::ensure_programs(&[("ssh", "openssh-client"), ("scp", "openssh-client")])?;
        fs::create_dir_all(directory)?;
        let key = directory.join("key");
        if !key.is_file() {
            let mut make = Command::new("ssh-keygen");
            shell::run(make.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key))?;
        }
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(Remote { key, port })
    }

    /// What `authorized_keys` of the guest has to hold.
    pub(crate) fn public_key(&self) -> Result<Vec<u8>> {
        Ok(fs::read(self.key.with_extension("pub"))?)
    }

    /// QEMU's words for a network card through which the guest is reached.
    pub(crate) fn network(&self) -> [String; 4] {
        let net = format!("user,id=net,hostfwd=tcp:127.0.0.1:{}-:22", self.port);
        ["-netdev".into(), net, "-device".into(), "virtio-net-pci,netdev=net".into()]
    }

    fn program(&self, name: &str, port: &str) -> Command {
        let mut command = Command::new(name);
        command.args(["-F", "/dev/null", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]);
        command.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        command.args(["-o", CONNECT, "-i"]).arg(&self.key).args([port, &self.port.to_string()]);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command there for what it prints.
    pub(crate) fn run(&self, command: &str) -> Result<String> {
        shell::output(self.program("ssh", "-p").args(["root@127.0.0.1", command]))
    }

    /// Runs a command after which the guest may not be there to tell how it ended.
    pub(crate) fn run_last(&self, command: &str) -> Result {
        self.program("ssh", "-p").args(["root@127.0.0.1", command]).output()?;
        Ok(())
    }

    /// Runs a command as soon as somebody answers.
    pub(crate) fn run_first(&self, command: &str, patience: Duration) -> Result<String> {
        let start = Instant::now();
        loop {
            match self.run(command) {
                Err(error) if start.elapsed() > patience => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(500)),
                Ok(text) => return Ok(text),
            }
        }
    }

    /// Copies a file to the guest and back as another file, and compares the two.
    pub(crate) fn copy_there_and_back(&self, directory: &Path, contents: &[u8]) -> Result {
        let (sent, received) = (directory.join("sent"), directory.join("received"));
        fs::write(&sent, contents)?;
        let place = "root@127.0.0.1:/root/copied";
        shell::output(self.program("scp", "-P").arg(&sent).arg(place))?;
        shell::output(self.program("scp", "-P").arg(place).arg(&received))?;
        if fs::read(&received)? != contents {
            return Err("a file that was copied there and back is another one".into());
        }
        Ok(())
    }
}
