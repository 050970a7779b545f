//! Messages with descriptors: order, bounds, refusals, modes, credentials.

use std::fs::File;
use std::future::Future;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use netio::seqpacket::{BlockingConn, Conn, Listener, RecvError};

/// Runs each on a tokio runtime, which is what this module is for.
macro_rules! on_tokio {
    ($($name:ident),* $(,)?) => {
        mod on_tokio {
            $(#[test] fn $name() { super::run(super::$name()); })*
        }
    };
}

on_tokio!(
    descriptors_travel_both_ways_in_order,
    a_received_descriptor_is_closed_on_exec,
    a_message_with_too_many_descriptors_is_refused_and_the_next_one_taken,
    a_message_that_is_too_long_is_refused_and_the_next_one_taken,
    an_empty_message_is_refused_by_the_sender,
    the_end_is_told_from_a_message,
    a_full_socket_makes_the_sender_wait,
    the_listeners_directory_and_socket_are_private,
    a_dead_socket_is_replaced_and_a_living_one_is_not,
    a_directory_that_others_may_write_is_refused,
    a_blocking_client_talks_with_timeouts,
);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let test = async {
        tokio::time::timeout(crate::HANG, test)
            .await
            .expect("the test hangs")
    };
    runtime.block_on(test);
}

const TIMEOUT: Duration = Duration::from_secs(10);

fn file_with(text: &str) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

fn text_of(fd: std::os::fd::OwnedFd) -> String {
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).unwrap();
    text
}

async fn descriptors_travel_both_ways_in_order() {
    let (a, b) = Conn::pair().unwrap();
    for (from, to) in [(&a, &b), (&b, &a)] {
        let files: Vec<File> = (0..5)
            .map(|number| file_with(&format!("file {number}")))
            .collect();
        let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        from.send(b"five", &fds).await.unwrap();
        let message = to.recv(100, 5).await.unwrap().unwrap();
        assert_eq!(message.bytes, b"five");
        let texts: Vec<String> = message.fds.into_iter().map(text_of).collect();
        assert_eq!(texts, ["file 0", "file 1", "file 2", "file 3", "file 4"]);
    }
}

async fn a_received_descriptor_is_closed_on_exec() {
    let (a, b) = Conn::pair().unwrap();
    a.send(b"x", &[file_with("").as_fd()]).await.unwrap();
    let fd = b.recv(1, 1).await.unwrap().unwrap().fds.remove(0);
    let flags = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
}

async fn a_message_with_too_many_descriptors_is_refused_and_the_next_one_taken() {
    let (a, b) = Conn::pair().unwrap();
    // When the receiver closes its copy of a pipe's only write end, the read end sees the end.
    let (mut reader, writer) = std::io::pipe().unwrap();
    a.send(b"three", &[writer.as_fd(); 3]).await.unwrap();
    drop(writer);
    let error = b.recv(100, 2).await.unwrap_err();
    assert!(
        matches!(error, RecvError::TooManyFds { limit: 2, found: 3 }),
        "{error}"
    );
    let mut rest = Vec::new();
    assert_eq!(reader.read_to_end(&mut rest).unwrap(), 0);
    a.send(b"none", &[]).await.unwrap();
    assert_eq!(b.recv(100, 2).await.unwrap().unwrap().bytes, b"none");
}

async fn a_message_that_is_too_long_is_refused_and_the_next_one_taken() {
    let (a, b) = Conn::pair().unwrap();
    a.send(&[7; 101], &[]).await.unwrap();
    a.send(&[8; 100], &[]).await.unwrap();
    let error = b.recv(100, 0).await.unwrap_err();
    assert!(
        matches!(error, RecvError::TooLong { limit: 100 }),
        "{error}"
    );
    assert_eq!(b.recv(100, 0).await.unwrap().unwrap().bytes, [8; 100]);
}

async fn an_empty_message_is_refused_by_the_sender() {
    let (a, _b) = Conn::pair().unwrap();
    let error = a.send(b"", &[]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

async fn the_end_is_told_from_a_message() {
    let (a, b) = Conn::pair().unwrap();
    a.send(b"last", &[]).await.unwrap();
    drop(a);
    assert_eq!(b.recv(100, 0).await.unwrap().unwrap().bytes, b"last");
    assert!(b.recv(100, 0).await.unwrap().is_none());
    assert!(b.send(b"x", &[]).await.is_err());
}

async fn a_full_socket_makes_the_sender_wait() {
    const MESSAGES: u32 = 5000;
    let (a, b) = Conn::pair().unwrap();
    let send = async move {
        for number in 0..MESSAGES {
            a.send(&number.to_be_bytes(), &[]).await.unwrap();
        }
    };
    let receive = async move {
        for number in 0..MESSAGES {
            let message = b.recv(4, 0).await.unwrap().unwrap();
            assert_eq!(message.bytes, number.to_be_bytes());
        }
        assert!(b.recv(4, 0).await.unwrap().is_none());
    };
    tokio::join!(send, receive);
}

async fn the_listeners_directory_and_socket_are_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made/here/it.sock");
    let listener = Listener::bind(&path).unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let client = Conn::connect(&path).unwrap();
    let server = listener.accept().await.unwrap();
    let own = i32::try_from(std::process::id()).unwrap();
    for cred in [server.peer_cred().unwrap(), client.peer_cred().unwrap()] {
        assert_eq!((cred.pid, cred.uid), (own, nix::unistd::geteuid().as_raw()));
    }
}

async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it.sock");
    let first = Listener::bind(&path).unwrap();
    let error = Listener::bind(&path).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    drop(first);
    let second = Listener::bind(&path).unwrap();
    let _client = Conn::connect(&path).unwrap();
    // The living listener still works after the question whether it lives.
    second.accept().await.unwrap();
}

async fn a_directory_that_others_may_write_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let open = std::fs::Permissions::from_mode(0o777);
    let private = std::fs::Permissions::from_mode(0o700);
    let path = directory.path().join("it.sock");
    let refused = |case: &str| {
        let error = Listener::bind(&path).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{case}");
    };
    std::fs::set_permissions(directory.path(), open).unwrap();
    refused("writable by all");
    std::fs::set_permissions(directory.path(), private).unwrap();
    std::os::unix::fs::chown(directory.path(), Some(65534), None).unwrap();
    refused("of another user");
}

async fn a_blocking_client_talks_with_timeouts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it.sock");
    let missing = BlockingConn::connect(&path, TIMEOUT).unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    let listener = Listener::bind(&path).unwrap();
    let client = std::thread::Builder::new().spawn(move || {
        let conn = BlockingConn::connect(&path, TIMEOUT).unwrap();
        let file = file_with("from the client");
        conn.send(b"take this", &[file.as_fd()]).unwrap();
        let answer = conn.recv(100, 1).unwrap().unwrap();
        assert_eq!(answer.bytes, b"thanks");
        conn.set_timeout(Duration::from_millis(10)).unwrap();
        let RecvError::Io(error) = conn.recv(100, 1).unwrap_err() else {
            panic!("not a timeout")
        };
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        answer.fds.into_iter().map(text_of).collect::<Vec<_>>()
    });
    let server = listener.accept().await.unwrap();
    let message = server.recv(100, 1).await.unwrap().unwrap();
    assert_eq!(message.bytes, b"take this");
    assert_eq!(
        message.fds.into_iter().map(text_of).next().unwrap(),
        "from the client"
    );
    server
        .send(b"thanks", &[file_with("from the server").as_fd()])
        .await
        .unwrap();
    let texts = client.unwrap().join().unwrap();
    assert_eq!(texts, ["from the server"]);
    assert!(server.recv(1, 0).await.unwrap().is_none());
}

#[test]
fn descriptors_that_do_not_fit_the_process_are_reported_as_lost() {
    // In a child, because the limit is the whole process's.
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "seqpacket::receive_beyond_the_limit",
        "--include-ignored",
    ]);
    let output = command.env("NETIO_TEST_CHILD", "1").output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

/// The body of the test above; does nothing when it is not its child.
#[test]
fn receive_beyond_the_limit() {
    if std::env::var_os("NETIO_TEST_CHILD").is_none() {
        return;
    }
    run(async {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let (a, b) = Conn::pair().unwrap();
        let file = file_with("");
        a.send(b"ten", &[file.as_fd(); 10]).await.unwrap();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let highest = u64::try_from(file.as_raw_fd()).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, highest + 3, hard).unwrap();
        let error = b.recv(100, 10).await.unwrap_err();
        assert!(matches!(error, RecvError::FdsLost), "{error}");
    });
}
