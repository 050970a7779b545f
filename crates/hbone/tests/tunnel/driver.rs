//! A driver as ztunnel has one, without sockets: events in, application data in and out. It writes
//! again only after `Writable` and reads only after `Readable`, so a missing event stalls it.

use std::collections::BTreeMap;

use hbone::{
    CloseReason, ConnectRequest, ConnectResponse, Connection, ErrorCode, Event, FRAME_HEADROOM,
    Headers, Mono, PeerIdentity, StreamId,
};

use crate::dice::{Dice, Sum};

/// What an application does with its stream.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Bytes that it sends, made from this seed.
    pub seed: u64,
    pub bytes: usize,
    /// Reads nothing before this moment.
    pub stalled_until: Mono,
    /// Resets the stream after so many bytes were received.
    pub reset_after: Option<u64>,
    /// Does not close its half at the end.
    pub keep_open: bool,
}

impl Plan {
    pub fn of(seed: u64, bytes: usize) -> Self {
        Self {
            seed,
            bytes,
            stalled_until: Mono::default(),
            reset_after: None,
            keep_open: false,
        }
    }
}

/// One stream of one end.
pub struct Flow {
    pub plan: Plan,
    source: Dice,
    pub left: usize,
    pub sent: Sum,
    pub got: Sum,
    open: bool,
    blocked: bool,
    pub finish_sent: bool,
    pub finished: bool,
    pub reset: Option<ErrorCode>,
    readable: bool,
    pub status: Option<u16>,
}

impl Flow {
    fn new(plan: Plan) -> Self {
        Self {
            source: Dice::new(plan.seed),
            left: plan.bytes,
            plan,
            sent: Sum::new(),
            got: Sum::new(),
            open: false,
            blocked: false,
            finish_sent: false,
            finished: false,
            reset: None,
            readable: false,
            status: None,
        }
    }

    pub fn done(&self) -> bool {
        self.reset.is_some() || (self.finished && self.finish_sent)
    }
}

/// One end with its applications.
pub struct End {
    pub conn: Connection,
    dice: Dice,
    pub flows: BTreeMap<StreamId, Flow>,
    /// Server: what the applications behind it do, by authority.
    pub plans: BTreeMap<String, Plan>,
    pub peer: Option<PeerIdentity>,
    pub closed: Option<CloseReason>,
    pub goaway: bool,
    pub requests: Vec<ConnectRequest>,
}

impl End {
    pub fn new(conn: Connection, seed: u64) -> Self {
        Self {
            conn,
            dice: Dice::new(seed),
            flows: BTreeMap::new(),
            plans: BTreeMap::new(),
            peer: None,
            closed: None,
            goaway: false,
            requests: Vec::new(),
        }
    }

    pub fn open(&mut self, authority: &str, plan: Plan) -> StreamId {
        let request = ConnectRequest {
            authority: authority.to_owned(),
            headers: Headers::new().with("baggage", "k8s.namespace.name=shop"),
        };
        let stream = self.conn.open_stream(&request).unwrap();
        self.flows.insert(stream, Flow::new(plan));
        stream
    }

    pub fn flow(&self, stream: StreamId) -> &Flow {
        &self.flows[&stream]
    }

    pub fn all_done(&self) -> bool {
        self.flows.values().all(Flow::done)
    }

    /// Takes events and lets the applications act.
    pub fn pump(&mut self, now: Mono) {
        loop {
            while let Some(event) = self.conn.poll_event() {
                self.event(event);
            }
            for stream in self.flows.keys().copied().collect::<Vec<_>>() {
                self.read(stream, now);
                self.write(stream);
            }
            match self.conn.poll_event() {
                Some(event) => self.event(event),
                None => return,
            }
        }
    }

    fn event(&mut self, event: Event) {
        assert!(
            self.closed.is_none() || matches!(event, Event::Finished(_)),
            "{event:?}"
        );
        match event {
            Event::Established { peer, .. } => self.peer = Some(peer),
            Event::Request { stream, request } => self.request(stream, request),
            Event::Response { stream, response } => {
                let flow = self.flows.get_mut(&stream).unwrap();
                flow.status = Some(response.status);
                flow.open = response.is_success();
            }
            Event::Readable(stream) => self.flows.get_mut(&stream).unwrap().readable = true,
            Event::Writable(stream) => self.flows.get_mut(&stream).unwrap().blocked = false,
            Event::Finished(stream) => self.flows.get_mut(&stream).unwrap().finished = true,
            Event::Reset { stream, code } => {
                self.flows.get_mut(&stream).unwrap().reset = Some(code);
            }
            Event::GoAway { .. } => self.goaway = true,
            Event::Closed(reason) => self.closed = Some(reason),
        }
    }

    fn request(&mut self, stream: StreamId, request: ConnectRequest) {
        let plan = self.plans.get(&request.authority).cloned();
        self.requests.push(request);
        match plan {
            Some(plan) => {
                let response = ConnectResponse {
                    status: 200,
                    headers: Headers::new().with("baggage", "service.name=web"),
                };
                self.conn.respond(stream, &response).unwrap();
                let mut flow = Flow::new(plan);
                flow.open = true;
                self.flows.insert(stream, flow);
            }
            None => self
                .conn
                .respond(stream, &ConnectResponse::of(503))
                .unwrap(),
        }
    }

    fn read(&mut self, stream: StreamId, now: Mono) {
        let flow = self.flows.get_mut(&stream).unwrap();
        if !flow.readable || flow.reset.is_some() || now < flow.plan.stalled_until {
            return;
        }
        flow.readable = false;
        let Some(data) = self.conn.read(stream) else {
            return;
        };
        flow.got.add(&data);
        if flow
            .plan
            .reset_after
            .is_some_and(|after| flow.got.bytes >= after)
        {
            flow.reset = Some(ErrorCode::CANCEL);
            self.conn.reset(stream, ErrorCode::CANCEL);
            return;
        }
        // The application's socket takes it in two parts.
        let first = self.dice.within(0, data.len());
        self.conn.consumed(stream, first);
        self.conn.consumed(stream, data.len() - first);
    }

    fn write(&mut self, stream: StreamId) {
        let flow = self.flows.get_mut(&stream).unwrap();
        if !flow.open || flow.blocked || flow.finish_sent || flow.reset.is_some() {
            return;
        }
        while flow.left > 0 {
            let room = self.conn.writable_bytes(stream);
            if room == 0 {
                flow.blocked = true;
                return;
            }
            let most = self.dice.size(200_000).min(flow.left);
            let zero_copy = self.dice.chance(2);
            let length = if zero_copy { most.min(room) } else { most };
            let data = flow.source.bytes(length.next_multiple_of(8));
            let data = &data[..length];
            let taken = if zero_copy {
                let buffer = [&[0; FRAME_HEADROOM][..], data].concat();
                self.conn.write_buffer(stream, buffer).map(|()| length)
            } else {
                self.conn.write(stream, data)
            };
            let Ok(taken) = taken else {
                flow.finish_sent = true;
                return;
            };
            flow.sent.add(&data[..taken]);
            flow.left -= taken;
            if taken < length {
                flow.blocked = true;
                return;
            }
        }
        if !flow.plan.keep_open {
            self.conn.finish(stream);
            flow.finish_sent = true;
        }
    }
}
