//! The network card: a guest on QEMU's user network and this machine call each other, several
//! connections at once in both directions, and each gets back every byte that it sent.

use crate::options::{Disk, Entry, Options};
use crate::tally::{Tally, check, is_wanted};
use crate::{Result, paths, qemu, test_locks};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const NAME: &str = "network: calls in both directions";
/// How long the machine gets.
const PATIENCE: Duration = Duration::from_secs(240);
/// Connections at once, in each direction.
const CALLS: usize = 4;
/// Bytes that each carries there, and back.
const LEN: usize = 3_000_000;

/// What the guest runs: it serves at port 7, calls this machine at port `PORT`, waits for the calls
/// from here, and for one more that says that they have ended.
const SCRIPT: &str = r"echo pings answered: $(ping -c 2 10.0.2.2 | grep -c 'bytes from 10.0.2.2')
python - <<'PY'
import socket, threading
data = ''.join(chr(i * 7 % 251) for i in range(251)) * (LEN // 251 + 1)
data = data[:LEN]
def echo(s):
    while True:
        part = s.recv(65536)
        if not part: break
        s.sendall(part)
    s.close()
def serve(listener):
    threads = [threading.Thread(target=echo, args=(listener.accept()[0],)) for i in range(CALLS)]
    for t in threads: t.start()
    for t in threads: t.join()
def call(results):
    s = socket.create_connection(('10.0.2.2', PORT)); got = []
    def read():
        while True:
            part = s.recv(65536)
            if not part: break
            got.append(part)
    reader = threading.Thread(target=read); reader.start()
    s.sendall(data); s.shutdown(socket.SHUT_WR); reader.join()
    results.append(''.join(got) == data)
def together(target, args):
    threads = [threading.Thread(target=target, args=args) for i in range(CALLS)]
    for t in threads: t.start()
    for t in threads: t.join()
listener = socket.socket(); listener.bind(('', 7)); listener.listen(CALLS)
server = threading.Thread(target=serve, args=(listener,)); server.start()
results = []; together(call, (results,))
print 'the guest called: %d right' % results.count(True)
server.join(); listener.accept()
print 'the guest was called: done'
PY";

/// Runs it if its name contains one of `filters` (or there are none).
pub(crate) fn cases(filters: &[&str]) -> Result<Tally> {
    let mut tally = Tally::default();
    if is_wanted(NAME, filters) {
        tally.count(NAME, run());
    }
    Ok(tally)
}

fn pattern() -> Vec<u8> {
    (0..LEN).map(|at| (at % 251 * 7 % 251) as u8).collect()
}

/// Answers the guest's calls with what they say.
fn serve(listener: &TcpListener) -> Result {
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        let (mut stream, _) = listener.accept()?;
        calls.push(thread::spawn(move || {
            let mut from = stream.try_clone()?;
            std::io::copy(&mut from, &mut stream)?;
            stream.shutdown(Shutdown::Write)
        }));
    }
    for call in calls {
        call.join().map_err(|_| "an answer failed")??;
    }
    Ok(())
}

/// Calls the guest; whether it gave back what was said.
fn call(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let mut to = stream.try_clone()?;
    let writer = thread::spawn(move || {
        to.write_all(&pattern())?;
        to.shutdown(Shutdown::Write)
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got)?;
    let is_sent = writer.join().is_ok_and(|result| result.is_ok());
    Ok(is_sent && got == pattern())
}

/// The host's part: answers first, so that the guest is there when it is called.
fn talk(listener: &TcpListener, port: u16) -> String {
    if let Err(error) = serve(listener) {
        return format!("the host was called: {error}");
    }
    let calls: Vec<_> = (0..CALLS).map(|_| thread::spawn(move || call(port))).collect();
    let right = calls.into_iter().map(|call| matches!(call.join(), Ok(Ok(true)))).filter(|&ok| ok);
    let right = right.count();
    match TcpStream::connect(("127.0.0.1", port)) {
        Ok(_) => format!("the host called: {right} right"),
        Err(error) => format!("the host's last call: {error}"),
    }
}

fn options(command: String, port: u16) -> Options {
    Options {
        rootfs: Some(test_locks::rootfs()),
        image: None,
        command: Some(command),
        cpus: 2,
        memory: "1G".into(),
        disk: Disk::Virtio,
        disk_size: "4G".into(),
        accel: Some("tcg,thread=multi".into()),
        cpu: None,
        append: "ip=10.0.2.15::10.0.2.2:255.255.255.0::eth0:off".into(),
        format: None,
        init: None,
        initrd: None,
        kernel: None,
        entry: Entry::Bios,
        is_debug_build: false,
        has_network: true,
        forwards: vec![(port, 7)],
        qemu_args: Vec::new(),
    }
}

fn run() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let script = SCRIPT
        .replace("PORT", &listener.local_addr()?.port().to_string())
        .replace("CALLS", &CALLS.to_string())
        .replace("LEN", &LEN.to_string());
    let options = options(script, port);
    let kernel = qemu::kernel_file(&options)?;
    let image = qemu::prepared_image(&options)?;
    let control = paths::output().join(format!("control.{}", std::process::id()));
    let mut command = qemu::machine(&options, &kernel, &image, &control);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let Some(mut console) = child.stdout.take() else { return Err("no pipe".into()) };
    let reader = thread::spawn(move || {
        let mut log = Vec::new();
        // What came until the pipe broke is looked at.
        let _ = console.read_to_end(&mut log);
        String::from_utf8_lossy(&log).into_owned()
    });
    let (said, talked) = mpsc::channel();
    // Nobody listens only if the machine has failed.
    thread::spawn(move || said.send(talk(&listener, port)).unwrap_or_default());
    let is_over = wait(&mut child)?;
    let _ = std::fs::remove_file(&control);
    let mut log = reader.join().map_err(|_| "the console could not be read")?;
    if !is_over {
        return Err(format!("the machine did not end\n{log}").into());
    }
    let said = talked.recv_timeout(Duration::from_secs(10));
    log.push_str(said.as_deref().unwrap_or("the host's part has not ended"));
    let right = [
        "pings answered: 2".into(),
        format!("the guest called: {CALLS} right"),
        "the guest was called: done".into(),
        format!("the host called: {CALLS} right"),
    ];
    check(&log, &right.each_ref().map(String::as_str), None)
}

/// Waits until the machine stops; ends one that does not.
fn wait(child: &mut Child) -> Result<bool> {
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(true)
}
