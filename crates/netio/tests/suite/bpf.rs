//! The raw bpf(2) calls with a real sk_lookup program, hand-assembled, that gives every SYN to the
//! socket in slot 0.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use netio::TcpListener;
use netio::bpf::{self, LinkTarget, SockMap};
use netio::netns::Netns;
use netio::socket::{self, Family, Source, Upstream, transparent_listener};

use crate::{ip, lonely_netns, on_both_back_ends};

on_both_back_ends!(
    the_original_destination_is_the_local_address_of_a_redirected_connection,
    a_slot_changes_hands_without_a_refused_connection,
);

const MAP_CREATE: i32 = 0;
const PROG_LOAD: i32 = 5;
const LINK_CREATE: i32 = 28;
const SOCKMAP: u32 = 15;
const HASH: u32 = 1;
const SK_LOOKUP: u32 = 30;
const ATTACH_SK_LOOKUP: u32 = 36;

/// bpf(2) with its attributes as words.
fn bpf_call(command: i32, attributes: &[u32]) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads the words during the call; pointers in them are to data of the
    // callers' frames.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            size_of_val(attributes),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that only we know.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) })
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap()
}

fn map(kind: u32, value_bytes: u32) -> OwnedFd {
    bpf_call(MAP_CREATE, &[kind, 4, value_bytes, 8, 0]).unwrap()
}

fn instruction(code: u8, registers: u8, offset: i16, value: u32) -> u64 {
    u64::from(code)
        | u64::from(registers) << 8
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(value) << 32
}

/// `socket = map[0]; if (socket) { sk_assign(ctx, socket, 0); sk_release(socket) } return PASS`, or
/// `return DROP`.
fn program(map: BorrowedFd<'_>, drops: bool) -> OwnedFd {
    let redirect = [
        instruction(0xbf, 0x16, 0, 0),            // r6 = r1 (context)
        instruction(0x62, 0x0a, -4, 0),           // *(u32 *)(r10 - 4) = 0
        instruction(0xbf, 0xa2, 0, 0),            // r2 = r10
        instruction(0x07, 0x02, 0, -4i32 as u32), // r2 += -4
        instruction(0x18, 0x11, 0, number(map)),  // r1 = map
        instruction(0, 0, 0, 0),                  //
        instruction(0x85, 0, 0, 1),               // r0 = map_lookup_elem
        instruction(0x15, 0x00, 7, 0),            // if r0 == 0 goto exit
        instruction(0xbf, 0x07, 0, 0),            // r7 = r0
        instruction(0xbf, 0x61, 0, 0),            // r1 = r6
        instruction(0xbf, 0x72, 0, 0),            // r2 = r7
        instruction(0xb7, 0x03, 0, 0),            // r3 = 0
        instruction(0x85, 0, 0, 124),             // sk_assign
        instruction(0xbf, 0x71, 0, 0),            // r1 = r7
        instruction(0x85, 0, 0, 86),              // sk_release
        instruction(0xb7, 0x00, 0, 1),            // r0 = PASS
        instruction(0x95, 0, 0, 0),               // exit
    ];
    let drop = [instruction(0xb7, 0x00, 0, 0), instruction(0x95, 0, 0, 0)];
    let code: &[u64] = if drops { &drop } else { &redirect };
    let mut log = vec![0u8; 16 * 1024];
    let licence = c"Apache-2.0";
    let split = |pointer: u64| [(pointer & 0xffff_ffff) as u32, (pointer >> 32) as u32];
    let ([code_low, code_high], [licence_low, licence_high], [log_low, log_high]) = (
        split(code.as_ptr() as u64),
        split(licence.as_ptr() as u64),
        split(log.as_mut_ptr() as u64),
    );
    let length = u32::try_from(code.len()).unwrap();
    let mut attributes = vec![
        SK_LOOKUP,
        length,
        code_low,
        code_high,
        licence_low,
        licence_high,
    ];
    attributes.extend([
        1,
        16 * 1024,
        log_low,
        log_high,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        ATTACH_SK_LOOKUP,
    ]);
    bpf_call(PROG_LOAD, &attributes)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&log)))
}

fn attach(program: &OwnedFd, netns: &Netns) -> OwnedFd {
    let attributes = [
        number(program.as_fd()),
        number(netns.as_fd()),
        ATTACH_SK_LOOKUP,
        0,
    ];
    bpf_call(LINK_CREATE, &attributes).unwrap()
}

/// A namespace in which every address of 10.55.0.0/16 is local, and every connection goes to slot
/// 0.
struct Captured {
    netns: Netns,
    slots: SockMap,
    link: OwnedFd,
    program: OwnedFd,
}

fn captured() -> Captured {
    let netns = lonely_netns();
    ip(&netns, "route add local 10.55.0.0/16 dev lo");
    let slots = SockMap::from_fd(map(SOCKMAP, 8)).unwrap();
    let program = program(slots.as_fd(), false);
    let link = attach(&program, &netns);
    Captured {
        netns,
        slots,
        link,
        program,
    }
}

async fn client(netns: &Netns, destination: &str) -> netio::TcpStream {
    let destination = destination.parse().unwrap();
    let upstream = Upstream {
        netns,
        destination,
        mark: 0,
        source: Source::Own,
    };
    socket::connect(&upstream, Duration::from_secs(5))
        .await
        .unwrap()
}

async fn the_original_destination_is_the_local_address_of_a_redirected_connection() {
    let captured = captured();
    let socket = transparent_listener(&captured.netns, Family::V4).unwrap();
    captured.slots.set(0, socket.as_fd()).unwrap();
    let listener = TcpListener::from_std(socket).unwrap();
    for destination in ["10.55.1.2:80", "10.55.200.3:15008", "10.55.0.1:1"] {
        let client = client(&captured.netns, destination).await;
        let accepted = listener.accept().await.unwrap();
        assert_eq!(accepted.local_addr().unwrap(), destination.parse().unwrap());
        assert_ne!(accepted.local_addr().unwrap(), listener.local_addr());
        assert_eq!(accepted.peer_addr().unwrap(), client.local_addr().unwrap());
        accepted.write_all(&b"hello"[..]).await.0.unwrap();
        assert_eq!(client.read(Vec::with_capacity(9)).await.1, b"hello");
    }
    // The accepted socket does not keep the application from binding the port.
    let own = client(&captured.netns, "10.55.1.2:80").await;
    let held = listener.accept().await.unwrap();
    crate::listen_in(&captured.netns, "10.55.1.2:80");
    drop((own, held));
}

async fn a_slot_changes_hands_without_a_refused_connection() {
    let captured = captured();
    for _ in 0..20 {
        let socket = transparent_listener(&captured.netns, Family::V4).unwrap();
        captured.slots.set(0, socket.as_fd()).unwrap();
        let listener = TcpListener::from_std(socket).unwrap();
        let _client = client(&captured.netns, "10.55.1.2:80").await;
        listener.accept().await.unwrap();
    }
}

#[test]
fn a_slot_shows_the_cookie_of_its_socket() {
    let captured = captured();
    let listener = transparent_listener(&captured.netns, Family::V4).unwrap();
    let slots = &captured.slots;
    assert_eq!((slots.slots(), slots.cookie(3).unwrap()), (8, None));
    slots.set(3, listener.as_fd()).unwrap();
    assert_eq!(
        slots.cookie(3).unwrap(),
        Some(socket::cookie(listener.as_fd()).unwrap())
    );
    assert!(slots.clear(3).unwrap());
    assert!(!slots.clear(3).unwrap());
    assert_eq!(slots.cookie(3).unwrap(), None);
    assert!(slots.set(8, listener.as_fd()).is_err());
    slots.set(4, listener.as_fd()).unwrap();
    drop(listener);
    assert_eq!(
        slots.cookie(4).unwrap(),
        None,
        "the map does not keep a socket alive"
    );
}

#[test]
fn what_is_no_sockmap_with_wide_values_is_refused() {
    for fd in [map(HASH, 8), map(SOCKMAP, 4)] {
        let error = SockMap::from_fd(fd).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    }
    assert!(SockMap::from_fd(std::fs::File::open("/proc/self/status").unwrap().into()).is_err());
}

#[test]
fn a_link_names_its_target_and_changes_its_program_in_place() {
    let captured = captured();
    let before = bpf::link_info(captured.link.as_fd()).unwrap();
    let ino = u32::try_from(captured.netns.id().ino).unwrap();
    assert_eq!(before.target, LinkTarget::Netns { ino });
    let other = program(captured.slots.as_fd(), true);
    bpf::link_update(captured.link.as_fd(), other.as_fd()).unwrap();
    let after = bpf::link_info(captured.link.as_fd()).unwrap();
    assert_eq!(after.id, before.id);
    assert_ne!(after.program, before.program);
    bpf::link_update(captured.link.as_fd(), captured.program.as_fd()).unwrap();
    assert_eq!(bpf::link_info(captured.link.as_fd()).unwrap(), before);
    bpf::link_detach(captured.link.as_fd()).unwrap();
    let detached = bpf::link_info(captured.link.as_fd()).unwrap();
    assert_eq!(detached.target, LinkTarget::Netns { ino: 0 });
}

#[test]
fn objects_are_pinned_and_found_again() {
    let directory = Bpffs::mount();
    let captured = captured();
    let listener = transparent_listener(&captured.netns, Family::V4).unwrap();
    captured.slots.set(0, listener.as_fd()).unwrap();
    let (map_path, link_path) = (
        directory.path().join("slots"),
        directory.path().join("link"),
    );
    bpf::object_pin(captured.slots.as_fd(), &map_path).unwrap();
    bpf::object_pin(captured.link.as_fd(), &link_path).unwrap();
    assert!(
        bpf::object_pin(captured.link.as_fd(), &link_path).is_err(),
        "the name is taken"
    );
    let expected = bpf::link_info(captured.link.as_fd()).unwrap();
    let netns = captured.netns.clone();
    drop(captured);
    let slots = SockMap::open(&map_path).unwrap();
    assert_eq!(
        slots.cookie(0).unwrap(),
        Some(socket::cookie(listener.as_fd()).unwrap())
    );
    let link = bpf::object_get(&link_path).unwrap();
    assert_eq!(bpf::link_info(link.as_fd()).unwrap(), expected);
    assert_eq!(
        bpf::object_get(&directory.path().join("none"))
            .unwrap_err()
            .kind(),
        io::ErrorKind::NotFound
    );
    drop(netns);
}

/// A bpffs of the test's own, unmounted with it.
struct Bpffs(tempfile::TempDir);

impl Bpffs {
    fn mount() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(
            Some("bpf"),
            directory.path(),
            Some("bpf"),
            flags,
            None::<&str>,
        )
        .unwrap();
        Self(directory)
    }

    fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}
