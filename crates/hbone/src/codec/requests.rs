//! Requests and responses: opening streams, answering them, and what the peer's header blocks mean.

use super::flood::Nuisance;
use super::message::{
    Refusal, Unsendable, read_request, read_response, write_block, write_request,
};
use super::stream::{Answer, Direction, Stream};
use super::{Codec, Role, header_list_bytes};
use crate::error::{ErrorCode, OpenError, RespondError};
use crate::event::{ConnectRequest, ConnectResponse, Event, StreamId};
use crate::h2::frame::{self, Fault};
use crate::h2::hpack::{Field, HpackError};
use crate::headers::Headers;

impl From<Unsendable> for OpenError {
    fn from(why: Unsendable) -> Self {
        match why {
            Unsendable::TooLarge => Self::HeadersTooLarge,
            Unsendable::Invalid => Self::InvalidHeader,
        }
    }
}

impl From<Unsendable> for RespondError {
    fn from(why: Unsendable) -> Self {
        match why {
            Unsendable::TooLarge => Self::HeadersTooLarge,
            Unsendable::Invalid => Self::InvalidHeader,
        }
    }
}

impl Codec {
    /// Client: streams that may be opened now.
    pub fn available_streams(&self) -> usize {
        if self.role == Role::Server || self.is_closed() || self.is_draining() {
            return 0;
        }
        let allowed = self.config.client_max_streams.min(self.peer.max_streams);
        usize::try_from(allowed)
            .unwrap_or(usize::MAX)
            .saturating_sub(self.streams.len())
    }

    /// Client: asks for a tunnel.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_stream(&mut self, request: &ConnectRequest) -> Result<StreamId, OpenError> {
        if self.role == Role::Server {
            return Err(OpenError::Server);
        }
        if self.is_closed() {
            return Err(OpenError::Closed);
        }
        if self.is_draining() {
            return Err(OpenError::Draining);
        }
        if self.available_streams() == 0 {
            return Err(OpenError::TooManyStreams);
        }
        let block = write_request(request, self.peer.max_header_list)?;
        let number = self.streams.take_number().ok_or(OpenError::Draining)?;
        frame::headers(
            &mut self.control,
            number,
            false,
            &block,
            self.peer.max_frame,
        );
        self.add_stream(number);
        Ok(StreamId(number))
    }

    fn add_stream(&mut self, number: u32) {
        let (send, recv) = (self.peer.initial_window, self.config.stream_window_bytes);
        let mut stream = Stream::new(send, recv, self.now);
        stream.untold = self.role == Role::Server;
        self.streams.insert(number, stream);
    }

    /// Server: answers a request. Another status than 2xx ends the stream.
    ///
    /// # Errors
    /// See [`RespondError`].
    pub fn respond(
        &mut self,
        stream: StreamId,
        response: &ConnectResponse,
    ) -> Result<(), RespondError> {
        if !(200..600).contains(&response.status) {
            return Err(RespondError::InvalidStatus);
        }
        let closed = self.is_closed();
        let known = self.streams.live(stream.0).filter(|_| !closed);
        let known = known.ok_or(RespondError::StreamGone)?;
        if self.role == Role::Client || known.answer != Answer::Unanswered {
            return Err(RespondError::Answered);
        }
        let status = response.status.to_string();
        let max = self.peer.max_header_list;
        let block = write_block(&[(":status", &status)], &response.headers, max)?;
        let opens = response.is_success();
        frame::headers(
            &mut self.control,
            stream.0,
            !opens,
            &block,
            self.peer.max_frame,
        );
        if opens {
            known.answer = Answer::Tunnel;
            self.wake_writer(stream.0);
            return Ok(());
        }
        known.answer = Answer::Refused;
        known.send = Direction::Ended;
        // RFC 9113 8.1: what the client still wants to send is of no interest.
        self.reset(stream, ErrorCode::NO_ERROR);
        Ok(())
    }

    /// A whole header block came. It is decoded in any case, or the table would be out of step.
    pub(super) fn on_headers(&mut self, number: u32, end: bool, block: &[u8]) -> Result<(), Fault> {
        let most = usize::try_from(header_list_bytes(self.role, &self.config));
        let fields = self
            .decoder
            .decode(block, most.unwrap_or(usize::MAX))
            .map_err(|e| match e {
                HpackError::Broken(why) => Fault::new(ErrorCode::COMPRESSION_ERROR, why),
                HpackError::ListTooLarge => Fault::calm("a header list larger than allowed"),
            })?;
        match self.role {
            Role::Server if number.is_multiple_of(2) => {
                Err(Fault::protocol("a client opened a stream of even number"))
            }
            Role::Server if number > self.streams.last() => self.on_request(number, end, fields),
            Role::Client if self.is_idle(number) => Err(Fault::protocol(
                "a response on a stream that was never opened",
            )),
            _ => self.on_later_headers(number, end, fields),
        }
    }

    fn on_request(&mut self, number: u32, end: bool, fields: Vec<Field>) -> Result<(), Fault> {
        self.streams.set_last(number);
        if self.shutdown.is_past_last_stream(number) {
            // RFC 9113 6.8: what comes after the named last stream is ignored.
            return self.guard.count(Nuisance::IdleFrame, self.now);
        }
        let most = usize::try_from(self.config.server_max_streams).unwrap_or(usize::MAX);
        if self.streams.len() >= most {
            frame::rst_stream(&mut self.control, number, ErrorCode::REFUSED_STREAM);
            return self.guard.count(Nuisance::Refusal, self.now);
        }
        match read_request(fields) {
            Ok(request) => {
                self.add_stream(number);
                let stream = StreamId(number);
                self.tell(number, Event::Request { stream, request });
                if end {
                    self.on_end(number);
                }
                Ok(())
            }
            Err(refusal) => self.refuse(number, end, refusal),
        }
    }

    fn refuse(&mut self, number: u32, end: bool, refusal: Refusal) -> Result<(), Fault> {
        match refusal {
            Refusal::Malformed => frame::rst_stream(&mut self.control, number, Refusal::CODE),
            Refusal::BadRequest => {
                let block = write_block(&[(":status", "400")], &Headers::new(), u32::MAX);
                let block = block.unwrap_or_default();
                frame::headers(&mut self.control, number, true, &block, self.peer.max_frame);
                if !end {
                    frame::rst_stream(&mut self.control, number, ErrorCode::NO_ERROR);
                }
            }
        }
        self.guard.count(Nuisance::Refusal, self.now)
    }

    /// A response, or trailers, or headers of a stream that is gone.
    fn on_later_headers(
        &mut self,
        number: u32,
        end: bool,
        fields: Vec<Field>,
    ) -> Result<(), Fault> {
        let role = self.role;
        let Some(stream) = self.streams.live(number) else {
            return self.guard.count(Nuisance::IdleFrame, self.now);
        };
        if stream.recv != Direction::Open {
            return self.abort(number, ErrorCode::STREAM_CLOSED);
        }
        if role == Role::Client && stream.answer == Answer::Unanswered {
            return self.on_response(number, end, fields);
        }
        // Trailers say nothing in a tunnel; they only end it (RFC 9113 8.1).
        if !end {
            return self.abort(number, ErrorCode::PROTOCOL_ERROR);
        }
        self.on_end(number);
        Ok(())
    }

    fn on_response(&mut self, number: u32, end: bool, fields: Vec<Field>) -> Result<(), Fault> {
        let Ok(response) = read_response(fields) else {
            return self.abort(number, ErrorCode::PROTOCOL_ERROR);
        };
        if response.status < 200 {
            if end {
                return self.abort(number, ErrorCode::PROTOCOL_ERROR);
            }
            return self.guard.count(Nuisance::EmptyFrame, self.now);
        }
        if let Some(stream) = self.streams.live(number) {
            let opens = response.is_success();
            stream.answer = if opens {
                Answer::Tunnel
            } else {
                Answer::Refused
            };
        }
        let stream = StreamId(number);
        self.tell(number, Event::Response { stream, response });
        self.wake_writer(number);
        if end {
            self.on_end(number);
        }
        Ok(())
    }
}
