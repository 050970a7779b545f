//! Two codecs on a sound link that do to each other all that drivers can do, in any order: neither
//! finds fault with the other, what was written arrives in order and whole, ends of streams arrive,
//! and whoever waits to write or to read is woken.

use std::collections::BTreeMap;
use std::time::Duration;

use hbone::codec::Codec;
use hbone::{
    CloseReason, Config, ConnectRequest, ConnectResponse, ErrorCode, Event, FRAME_HEADROOM, Mono,
    StreamId,
};

/// Most steps of one input; the allowances of the flood guards are above what fits in these.
const MOST_STEPS: usize = 200;

/// Rounds of the link after which nothing may be left to carry.
const MOST_ROUNDS: usize = 2000;

/// What a connection at rest must carry on a new stream, bytes a round: together three times the
/// narrow window of a connection.
const PROBE_BYTES: usize = 30_000;
const PROBE_ROUNDS: usize = 7;

/// One end's view of a stream.
#[derive(Default)]
struct Flow {
    /// It can carry data: the server has answered 200, the client has heard so.
    open: bool,
    written: usize,
    read: usize,
    /// Read, not yet told to be used up.
    held: usize,
    finished: bool,
    heard_finish: bool,
    readable: bool,
    /// Told that nothing can be written, not yet told that something can.
    waits: bool,
    /// Reset, refused or let go, by either end: what was on its way may be lost.
    cut: bool,
}

struct End {
    codec: Codec,
    /// What the bytes that it writes begin with.
    seed: usize,
    flows: BTreeMap<StreamId, Flow>,
    requests: Vec<StreamId>,
    closed: Option<CloseReason>,
}

impl End {
    fn new(codec: Codec, seed: usize) -> Self {
        Self {
            codec,
            seed,
            flows: BTreeMap::new(),
            requests: Vec::new(),
            closed: None,
        }
    }

    /// The stream that a number names, among those that were ever seen.
    fn pick(&self, number: usize) -> Option<StreamId> {
        let count = self.flows.len().max(1);
        self.flows.keys().nth(number % count).copied()
    }

    fn hear(&mut self) {
        while let Some(event) = self.codec.poll_event() {
            // Whole streams stay readable after the end, and say so when they were read.
            let late = matches!(event, Event::Finished(_));
            assert!(late || self.closed.is_none(), "{event:?} after the end");
            match event {
                Event::Request { stream, request } => {
                    assert_eq!(request.authority, "10.0.0.1:80");
                    self.requests.push(stream);
                    self.flows.entry(stream).or_default();
                }
                Event::Response { stream, response } => {
                    let flow = self.flow(stream);
                    flow.open = response.status == 200;
                    flow.cut |= !flow.open;
                }
                Event::Readable(stream) => self.flow(stream).readable = true,
                Event::Writable(stream) => self.flow(stream).waits = false,
                Event::Finished(stream) => self.flow(stream).heard_finish = true,
                Event::Reset { stream, .. } => self.flow(stream).cut = true,
                Event::Closed(reason) => self.closed = Some(reason),
                Event::GoAway { code } => assert_eq!(code, ErrorCode::NO_ERROR),
                Event::Established { .. } => panic!("a codec knows no TLS"),
            }
        }
    }

    fn flow(&mut self, stream: StreamId) -> &mut Flow {
        self.flows
            .get_mut(&stream)
            .expect("a stream that was opened")
    }

    fn write(&mut self, stream: StreamId, bytes: usize, copied: bool) {
        let room = self.codec.writable_bytes(stream);
        if room == 0 && !copied {
            self.flow(stream).waits = true;
            return;
        }
        let (seed, before) = (self.seed, self.flow(stream).written);
        let data = content(seed, stream, before, bytes);
        let taken = if copied {
            self.codec.write(stream, &data)
        } else {
            let mut buffer = vec![0; FRAME_HEADROOM];
            let most = bytes.min(room);
            buffer.extend_from_slice(&data[..most]);
            self.codec.write_buffer(stream, buffer).map(|()| most)
        };
        let flow = self.flow(stream);
        match taken {
            Ok(taken) => {
                assert!(!flow.finished && (flow.open || taken == 0));
                // A copy takes a little room too, which is not told of behind much that waits.
                assert!(taken >= bytes.min(room) && (copied || taken <= room));
                flow.written += taken;
                flow.waits = room == 0 || (copied && taken < bytes);
            }
            Err(_) => assert!(flow.finished || flow.cut || self.closed.is_some()),
        }
    }

    /// Only what was told to be readable is read: a driver does not look again.
    fn read(&mut self, peer_seed: usize, stream: StreamId) {
        if !std::mem::take(&mut self.flow(stream).readable) {
            return;
        }
        while let Some(data) = self.codec.read(stream) {
            let flow = self.flow(stream);
            let expected = content(peer_seed, stream, flow.read, data.len());
            assert!(data == expected, "{stream} after {}", flow.read);
            flow.read += data.len();
            flow.held += data.len();
            self.codec.recycle(data);
        }
    }

    fn consume(&mut self, stream: StreamId, most: usize) {
        let flow = self.flow(stream);
        let bytes = flow.held.min(most);
        flow.held -= bytes;
        self.codec.consumed(stream, bytes);
    }

    fn answer(&mut self, number: usize, status: u16) {
        if self.requests.is_empty() {
            return;
        }
        let stream = self.requests.remove(number % self.requests.len());
        let answered = self
            .codec
            .respond(stream, &ConnectResponse::of(status))
            .is_ok();
        let flow = self.flow(stream);
        flow.open = answered && status == 200;
        flow.cut |= !flow.open;
    }

    fn step(&mut self, now: Mono, action: u8, number: usize) {
        let Some(stream) = self.pick(number) else {
            return;
        };
        match action {
            0 => self.write(stream, number * 13, true),
            1 => self.write(stream, number * 131, false),
            2 => {
                self.codec.finish(stream);
                self.flow(stream).finished = true;
            }
            3 => {
                self.codec.reset(stream, ErrorCode::CANCEL);
                self.flow(stream).cut = true;
            }
            4 => {
                self.codec.release(stream);
                self.flow(stream).cut = true;
            }
            5 => self.consume(stream, number * 17),
            6 => drop(self.codec.spare_buffer(4096)),
            _ if number.is_multiple_of(8) => self.codec.drain(now),
            _ => {}
        }
    }
}

/// Of another length than any buffer or frame, so that what is shifted is seen.
static PATTERN: [u8; 1021] = {
    let mut pattern = [0; 1021];
    let mut at = 0;
    while at < pattern.len() {
        pattern[at] = (at * 7 + at / 251) as u8;
        at += 1;
    }
    pattern
};

/// What stands at a place of a stream in one direction.
fn content(seed: usize, stream: StreamId, at: usize, bytes: usize) -> Vec<u8> {
    let mut start = (seed + stream.number() as usize * 17 + at) % PATTERN.len();
    let mut content = Vec::with_capacity(bytes);
    while content.len() < bytes {
        let piece = &PATTERN[start..];
        content.extend_from_slice(&piece[..piece.len().min(bytes - content.len())]);
        start = 0;
    }
    content
}

struct Pair {
    client: End,
    server: End,
    now: Mono,
}

impl Pair {
    fn new(choice: u8) -> Self {
        let small = Config {
            max_send_frame_bytes: 16 << 10,
            stream_window_bytes: 2000,
            stream_backlog_bytes: 3000,
            connection_backlog_bytes: 6000,
            server_max_streams: 3,
            ..Config::default()
        };
        // One stream can take nearly all of the connection's window.
        let narrow = Config {
            stream_window_bytes: 60_000,
            connection_window_bytes: 65_535,
            server_max_streams: 3,
            ..Config::default()
        };
        let config = |bit: u8| match (choice & bit, choice & 4) {
            (0, 0) => Config::default(),
            (0, _) => narrow.clone(),
            _ => small.clone(),
        };
        let now = Mono::default();
        Self {
            client: End::new(Codec::client(&config(1), now), 1),
            server: End::new(Codec::server(&config(2), now), 101),
            now,
        }
    }

    /// Carries up to so many bytes from one end to the other, in pieces of `cut`.
    fn carry(&mut self, up: bool, most: usize, cut: usize) -> usize {
        let (from, to) = match up {
            true => (&mut self.client, &mut self.server),
            false => (&mut self.server, &mut self.client),
        };
        let mut out = Vec::new();
        let wanted = from.codec.wants_transmit();
        from.codec.transmit(self.now, &mut out, most);
        assert_eq!(wanted, !out.is_empty() || most == 0 && wanted);
        from.hear();
        for piece in out.chunks(cut.max(1)) {
            to.codec.receive(self.now, piece, 0);
            to.hear();
        }
        if out.is_empty() && from.closed.is_some() {
            to.codec.receive_eof(self.now, true);
            to.hear();
        }
        out.len()
    }

    /// Until nothing is on its way.
    fn settle(&mut self) {
        for _ in 0..MOST_ROUNDS {
            if self.carry(true, 1 << 20, 1 << 20) + self.carry(false, 1 << 20, 1 << 20) == 0 {
                return;
            }
        }
        panic!("the ends never fall silent");
    }

    fn wait(&mut self, time: Duration) {
        self.settle();
        self.now = self.now.plus(time);
        for end in [&mut self.client, &mut self.server] {
            end.codec.handle_timeout(self.now);
            end.hear();
        }
        self.settle();
    }

    fn open(&mut self) {
        let request = ConnectRequest {
            authority: "10.0.0.1:80".into(),
            ..ConnectRequest::default()
        };
        if let Ok(stream) = self.client.codec.open_stream(&request) {
            self.client.flows.insert(stream, Flow::default());
        }
    }

    fn step(&mut self, action: u8, number: usize) {
        let now = self.now;
        match action % 24 {
            0 | 1 => self.open(),
            2 => self.server.answer(number, 200),
            3 => self.server.answer(number, 503),
            4 | 5 => drop(self.carry(true, number * 40 + 1, number % 64)),
            6 | 7 => drop(self.carry(false, number * 40 + 1, number % 64)),
            8..=14 => self.client.step(now, action % 24 - 8, number),
            15..=21 => self.server.step(now, action % 24 - 15, number),
            22 if number > 250 => self.server.step(now, 7, 0),
            22 if number > 245 => self.client.step(now, 7, 0),
            22 => {
                self.read(true, number);
                self.read(false, number);
            }
            _ => self.wait(Duration::from_millis(number as u64 * 20)),
        }
    }

    fn read(&mut self, at_client: bool, number: usize) {
        let (end, seed) = match at_client {
            true => (&mut self.client, self.server.seed),
            false => (&mut self.server, self.client.seed),
        };
        if let Some(stream) = end.pick(number) {
            end.read(seed, stream);
            end.hear();
        }
    }

    /// Once all streams are let go, a new one finds a slot, and the windows that it needs.
    fn carry_again(mut self) {
        for end in [&mut self.client, &mut self.server] {
            for (stream, _) in std::mem::take(&mut end.flows) {
                end.codec.release(stream);
            }
            end.requests.clear();
        }
        while self.client.codec.poll_event().is_some() {}
        while self.server.codec.poll_event().is_some() {}
        self.settle();
        self.open();
        let stream = self.client.pick(0).expect("a slot for a stream");
        self.settle();
        self.server.answer(0, 200);
        self.settle();
        for round in 1..=PROBE_ROUNDS {
            let before = self.client.flow(stream).written;
            self.client.write(stream, PROBE_BYTES, true);
            assert!(
                self.client.flow(stream).written > before,
                "stuck at {round}"
            );
            let before = self.server.flow(stream).written;
            self.server.write(stream, PROBE_BYTES, true);
            assert!(
                self.server.flow(stream).written > before,
                "stuck at {round}"
            );
            self.finish();
        }
    }

    /// Everything that is readable is read and used up, until nothing more comes.
    fn finish(&mut self) {
        for _ in 0..MOST_ROUNDS {
            self.settle();
            let (client, server) = (&self.client, &self.server);
            let before = (received(client), received(server));
            for at_client in [true, false] {
                for number in 0..self.client.flows.len().max(self.server.flows.len()) {
                    self.read(at_client, number);
                }
            }
            for end in [&mut self.client, &mut self.server] {
                for stream in end.flows.keys().copied().collect::<Vec<_>>() {
                    end.consume(stream, usize::MAX);
                }
                end.hear();
            }
            self.settle();
            if before == (received(&self.client), received(&self.server)) {
                return;
            }
        }
        panic!("data that never ends");
    }
}

fn received(end: &End) -> usize {
    end.flows.values().map(|flow| flow.read).sum()
}

/// Input: sizes of windows (8: look for leaks at the end), then steps of two bytes: what is done,
/// and a number for it.
pub fn holds(input: &[u8]) {
    let [choice, steps @ ..] = input else {
        return;
    };
    let mut pair = Pair::new(*choice);
    for step in steps.as_chunks::<2>().0.iter().take(MOST_STEPS) {
        pair.step(step[0], usize::from(step[1]));
        pair.client.hear();
        pair.server.hear();
    }
    pair.finish();
    let Pair {
        mut client,
        mut server,
        now,
    } = pair;
    for end in [&client, &server] {
        // Only a drain ends a connection here.
        let sound = |why: &CloseReason| {
            matches!(why, CloseReason::Drained | CloseReason::Eof { clean: true })
        };
        assert!(end.closed.as_ref().is_none_or(sound), "{:?}", end.closed);
    }
    for (stream, one) in &client.flows {
        let Some(other) = server.flows.get(stream) else {
            // Refused before the server looked at it, or past the last stream of its drain.
            assert!(one.cut, "{stream} never arrived");
            continue;
        };
        if one.cut || other.cut {
            continue;
        }
        assert_eq!(
            (one.written, other.written),
            (other.read, one.read),
            "{stream}"
        );
        let heard = (other.heard_finish, one.heard_finish);
        assert_eq!((one.finished, other.finished), heard, "{stream}");
    }
    nobody_waits(&mut client);
    nobody_waits(&mut server);
    let over = |end: &End| end.closed.is_some() || end.codec.is_draining();
    if choice & 8 != 0 && !over(&client) && !over(&server) {
        Pair {
            client,
            server,
            now,
        }
        .carry_again();
    }
}

fn nobody_waits(end: &mut End) {
    let waiting = end
        .flows
        .iter()
        .filter(|(_, flow)| flow.waits && !flow.cut && !flow.finished);
    let waiting: Vec<StreamId> = waiting.map(|(stream, _)| *stream).collect();
    for stream in waiting {
        let room = end.codec.writable_bytes(stream);
        assert_eq!(room, 0, "{stream} was never told that it can be written");
    }
}
