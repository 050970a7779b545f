//! Recording a link with tcpdump, and reading the recording.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use netio::netns::Netns;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::BindToDevice;
use pcap_file::pcap::PcapReader;

use crate::error::WorldError;
use crate::place::Place;
use crate::process::Process;
use crate::program::Program;

/// tcpdump's ring, so that a burst at veth speed is not dropped while it writes, or waits for a
/// core: in immediate mode each packet may take a place of the longest. libpcap takes less when
/// the kernel has not that much.
const RING_KIB: u32 = 128 * 1024;
/// How long tcpdump gets to open its socket, and to write its file at the end.
const TCPDUMP_WITHIN: Duration = Duration::from_secs(60);

/// ICMPv6 types of neighbour discovery: router and neighbour solicitation and advertisement,
/// redirect (RFC 4861, section 4).
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;

/// A running recording.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    place: Place,
    interface: String,
    file: PathBuf,
}

/// One TCP segment.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// First to open a connection: SYN without ACK.
    pub opens: bool,
    /// Sequence number of the first payload byte.
    pub sequence: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// An IP packet that is not TCP.
#[derive(Clone, Debug)]
pub struct Other {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// What it is, in a word or two.
    pub what: String,
}

/// What went over a link, read back.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// All TCP segments in the order of the capture.
    pub segments: Vec<Segment>,
    /// Every IP packet that is not TCP, but for neighbour discovery (RFC 4861), which is to IPv6
    /// what ARP is to IPv4: it carries no data of anybody and belongs to the link.
    pub others: Vec<Other>,
}

impl Capture {
    /// Starts tcpdump on an interface of `place`; when this returns, it records.
    pub fn start(place: &Place, interface: &str, file: &Path) -> Result<Self, WorldError> {
        // -Z root: Debian's tcpdump changes to user tcpdump, which cannot write our directory.
        let program = Program::line("tcpdump -Z root -n -U --immediate-mode")
            .args(["-B", &RING_KIB.to_string(), "-i", interface, "-w"])
            .arg(file);
        let process = place.start(&format!("tcpdump-{interface}"), &program)?;
        process.wait_for_line(&["listening on"], TCPDUMP_WITHIN)?;
        Ok(Capture {
            process,
            place: place.clone(),
            interface: interface.to_owned(),
            file: file.to_owned(),
        })
    }

    /// Ends it and reads the file. A recording with dropped packets proves nothing: an error.
    pub fn finish(self) -> Result<Recording, WorldError> {
        self.wait_all_written()?;
        self.process.stop(TCPDUMP_WITHIN)?;
        let log = self.process.log();
        let dropped = log.lines().find(|line| line.contains("dropped by kernel"));
        match dropped {
            Some(line) if line.trim_start().starts_with("0 ") => read(&self.file),
            other => Err(WorldError::Unreadable(format!(
                "the capture is incomplete: {}",
                other.unwrap_or("tcpdump gave no statistics")
            ))),
        }
    }
}

impl Capture {
    /// Sends a packet that nobody else sends and waits until it is in the file: then everything
    /// from before it is there too, however busy the machine is.
    fn wait_all_written(&self) -> Result<(), WorldError> {
        let last = format!("last-{:032x}", rand::random::<u128>());
        let send = || {
            Netns::open(self.place.netns())?.enter(|| {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.set_broadcast(true)?;
                setsockopt(&socket, BindToDevice, &self.interface.clone().into())?;
                socket
                    .send_to(last.as_bytes(), "255.255.255.255:9")
                    .map(drop)
            })?
        };
        send().map_err(WorldError::io(format!(
            "send the last packet on {}",
            self.interface
        )))?;
        self.process
            .wait_until("the last packet in the capture", TCPDUMP_WITHIN, || {
                let bytes = fs::read(&self.file).ok()?;
                (count(&bytes, last.as_bytes()) > 0).then_some(())
            })
    }
}

impl Recording {
    /// Only what went between one of `these` and one of `those`, in either direction.
    pub fn between(&self, these: &[IpAddr], those: &[IpAddr]) -> Recording {
        let wanted = |a: &IpAddr, b: &IpAddr| {
            (these.contains(a) && those.contains(b)) || (these.contains(b) && those.contains(a))
        };
        Recording {
            segments: self
                .segments
                .iter()
                .filter(|segment| wanted(&segment.source.ip(), &segment.destination.ip()))
                .cloned()
                .collect(),
            others: self
                .others
                .iter()
                .filter(|other| wanted(&other.source, &other.destination))
                .cloned()
                .collect(),
        }
    }

    /// The ports that connections were opened to.
    pub fn opened_ports(&self) -> BTreeSet<u16> {
        let opening = self.segments.iter().filter(|segment| segment.opens);
        opening.map(|segment| segment.destination.port()).collect()
    }

    /// Whether there was traffic and all of it was TCP from or to this port.
    pub fn only_port(&self, port: u16) -> bool {
        !self.segments.is_empty() && self.strange_to(port).is_none()
    }

    /// The first packet that is not TCP from or to this port, in words.
    pub fn strange_to(&self, port: u16) -> Option<String> {
        let wrong = |segment: &&Segment| {
            segment.source.port() != port && segment.destination.port() != port
        };
        let segment = self.segments.iter().find(wrong);
        let segment = segment.map(|s| format!("TCP from {} to {}", s.source, s.destination));
        let other = self.others.first();
        segment.or(other.map(|o| format!("{} from {} to {}", o.what, o.source, o.destination)))
    }

    /// Bytes of TCP payload.
    pub fn payload_bytes(&self) -> usize {
        self.segments
            .iter()
            .map(|segment| segment.payload.len())
            .sum()
    }

    /// How often `marker` occurs in the byte streams, also where it was cut between segments.
    pub fn occurrences(&self, marker: &[u8]) -> usize {
        let mut flows: BTreeMap<(SocketAddr, SocketAddr), Vec<&Segment>> = BTreeMap::new();
        for segment in self
            .segments
            .iter()
            .filter(|segment| !segment.payload.is_empty())
        {
            flows
                .entry((segment.source, segment.destination))
                .or_default()
                .push(segment);
        }
        flows
            .into_values()
            .map(|segments| count(&stream(segments), marker))
            .sum()
    }
}

/// The bytes of one direction in the order of their sequence numbers, without repetitions.
fn stream(mut segments: Vec<&Segment>) -> Vec<u8> {
    let Some(first) = segments.first().map(|segment| segment.sequence) else {
        return Vec::new();
    };
    // Half of the number space before and after the first: reordering is far below that.
    let place = |segment: &Segment| i64::from(segment.sequence.wrapping_sub(first).cast_signed());
    segments.sort_by_key(|segment| place(segment));
    let mut bytes = Vec::new();
    let mut next = i64::MIN;
    for segment in segments {
        let start = place(segment);
        let length = i64::try_from(segment.payload.len()).unwrap_or(i64::MAX);
        let known = usize::try_from((next - start).clamp(0, length)).unwrap_or(0);
        bytes.extend_from_slice(&segment.payload[known..]);
        next = next.max(start.saturating_add(length));
    }
    bytes
}

fn count(haystack: &[u8], needle: &[u8]) -> usize {
    let Some(first) = needle.first() else {
        return 0;
    };
    let mut found = 0;
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|byte| byte == first) {
        if haystack[from + at..].starts_with(needle) {
            found += 1;
        }
        from += at + 1;
    }
    found
}

fn read(file: &Path) -> Result<Recording, WorldError> {
    let unreadable = |why: String| WorldError::Unreadable(format!("{}: {why}", file.display()));
    let open = File::open(file).map_err(WorldError::io(format!("open {}", file.display())))?;
    let mut reader = PcapReader::new(open).map_err(|e| unreadable(e.to_string()))?;
    let mut recording = Recording::default();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.map_err(|e| unreadable(e.to_string()))?;
        add(&mut recording, &packet.data);
    }
    Ok(recording)
}

fn add(recording: &mut Recording, frame: &[u8]) {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else {
        return;
    };
    let (source, destination): (IpAddr, IpAddr) = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        Some(LaxNetSlice::Ipv6(ip)) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        _ => return,
    };
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => recording.segments.push(Segment {
            source: SocketAddr::new(source, tcp.source_port()),
            destination: SocketAddr::new(destination, tcp.destination_port()),
            opens: tcp.syn() && !tcp.ack(),
            sequence: tcp.sequence_number(),
            payload: tcp.payload().to_vec(),
        }),
        Some(TransportSlice::Icmpv6(icmp)) if NEIGHBOUR_DISCOVERY.contains(&icmp.type_u8()) => {}
        other => {
            let what = match other {
                Some(TransportSlice::Udp(udp)) => format!("UDP port {}", udp.destination_port()),
                Some(TransportSlice::Icmpv4(icmp)) => format!("ICMP type {}", icmp.type_u8()),
                Some(TransportSlice::Icmpv6(icmp)) => format!("ICMPv6 type {}", icmp.type_u8()),
                _ => "an unknown protocol".to_owned(),
            };
            recording.others.push(Other {
                source,
                destination,
                what,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(sequence: u32, payload: &str) -> Segment {
        Segment {
            source: "10.0.0.1:1000".parse().unwrap(),
            destination: "10.0.0.2:80".parse().unwrap(),
            opens: false,
            sequence,
            payload: payload.as_bytes().to_vec(),
        }
    }

    #[test]
    fn a_marker_is_found_where_it_was_cut_reordered_and_repeated() {
        let segments = vec![
            segment(u32::MAX - 1, "xxMA"),
            segment(5, "Rzz"),
            segment(2, "RKE"),
            segment(2, "RKE"),
        ];
        let recording = Recording {
            segments,
            others: Vec::new(),
        };
        assert_eq!(recording.occurrences(b"MARKER"), 1);
        assert_eq!(recording.occurrences(b"MARKET"), 0);
    }

    #[test]
    fn a_recording_without_traffic_does_not_prove_a_port() {
        assert!(!Recording::default().only_port(80));
        let mut recording = Recording {
            segments: vec![segment(1, "")],
            others: Vec::new(),
        };
        assert!(recording.only_port(80));
        recording.segments[0].destination.set_port(81);
        assert!(!recording.only_port(80));
    }

    #[test]
    fn overlapping_markers_are_counted_each() {
        assert_eq!(count(b"aaa", b"aa"), 2);
        assert_eq!(count(b"", b"aa"), 0);
    }
}
