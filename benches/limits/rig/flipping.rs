//! Who flips: callers that cost next to nothing, so that two processors are the server's and the database's. A client of tonic
//! would take as much of them as the service. Requests are put together before they are sent, a thread a connection sends them,
//! and of the answers it is looked at what they are: HTTP/2 by hand, as much of it as that takes.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

use prost::Message;

use super::requests::flip_request;
use super::server::TOKEN;
use crate::Result;
use crate::scale::FLAGS;
use crate::stats::at;

/// Connections that callers share, if they are that many.
const CONNECTIONS: usize = 4;

/// How long a turn runs before it counts, if it counts for twice as long.
const WARM_UP: Duration = Duration::from_millis(500);

/// How long an answer may take before something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// The first words of a client: settings of its own it has none.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Room for all that the server says, on the whole connection.
const WINDOW: u32 = i32::MAX as u32 - 65_535;

/// Answered when so many bytes have come.
const REFILL: usize = 1 << 30;

/// Kinds of frames, and flags of theirs.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Who flips in a turn, what, and for how long.
#[derive(Clone)]
pub struct Flipping {
    /// Flips under way at any moment.
    pub in_flight: usize,
    /// The flags, by their numbers.
    pub flags: Range<usize>,
    /// How long it counts.
    pub length: Duration,
}

impl Flipping {
    /// Of all flags.
    pub fn of_all(in_flight: usize, length: Duration) -> Self {
        Self { in_flight, flags: 1..FLAGS + 1, length }
    }
}

/// What came of a turn.
pub struct Flips {
    pub per_second: f64,
    /// How long each took that counts, shortest first.
    pub lengths: Vec<Duration>,
    /// All of them, also those that do not count.
    pub answered: i64,
    /// How many of them were turned away.
    pub refused: i64,
}

impl Flips {
    /// How long flips take at the median, in milliseconds.
    pub fn median_ms(&self) -> f64 {
        at(&self.lengths, 0.5).as_secs_f64() * 1_000.0
    }
}

/// One turn, on threads of its own.
pub fn flip(address: SocketAddr, flipping: &Flipping) -> Result<Flips> {
    let counts = Instant::now() + WARM_UP.min(flipping.length / 2);
    let turn = Turn { flags: flipping.flags.clone(), counts, over: counts + flipping.length };
    let connections = flipping.in_flight.min(CONNECTIONS);
    let all = std::thread::scope(|scope| {
        let connections = (0..connections).map(|number| {
            let streams = (flipping.in_flight + number) / connections;
            let turn = &turn;
            scope.spawn(move || Connection::open(address, number as u64)?.flip(streams, turn))
        });
        let connections: Vec<_> = connections.collect();
        let ended = connections.into_iter().map(|ended| ended.join().map_err(|_| "a caller panicked")?);
        ended.collect::<Result<Vec<_>>>()
    })?;
    let mut lengths = all.iter().flat_map(|told| &told.lengths).copied().collect::<Vec<_>>();
    lengths.sort_unstable();
    let sum = |of: fn(&Told) -> i64| all.iter().map(of).sum();
    Ok(Flips {
        per_second: lengths.len() as f64 / flipping.length.as_secs_f64(),
        lengths,
        answered: sum(|told| told.answered),
        refused: sum(|told| told.refused),
    })
}

/// What the connections of a turn share.
struct Turn {
    flags: Range<usize>,
    /// Flips that are answered from here on count ...
    counts: Instant,
    /// ... up to here, and then no more are made.
    over: Instant,
}

/// What one of them has seen.
#[derive(Default)]
struct Told {
    lengths: Vec<Duration>,
    answered: i64,
    refused: i64,
}

/// A flip under way.
struct Call {
    began: Instant,
    /// Whether there was a message: a refusal has none.
    made: bool,
}

struct Connection {
    socket: TcpStream,
    /// What has come and is not taken yet.
    come: Vec<u8>,
    /// What is to be sent.
    going: Vec<u8>,
    /// The calls under way, by half of their stream's number, from this one on.
    calls: VecDeque<Option<Call>>,
    first: u32,
    random: u64,
    /// Bytes of messages since the server was told that there is room.
    taken: usize,
}

impl Connection {
    fn open(address: SocketAddr, seed: u64) -> Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut going = PREFACE.to_vec();
        frame(&mut going, WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
        let (come, calls) = (Vec::new(), VecDeque::new());
        Ok(Self { socket, come, going, calls, first: 0, random: seed, taken: 0 })
    }

    fn flip(mut self, streams: usize, turn: &Turn) -> Result<Told> {
        let mut told = Told::default();
        (0..streams).for_each(|_| self.call(turn));
        let mut buffer = vec![0; 1 << 16];
        while self.calls.iter().any(Option::is_some) {
            self.socket.write_all(&self.going)?;
            self.going.clear();
            let read = self.socket.read(&mut buffer)?;
            if read == 0 {
                return Err("the server hung up".into());
            }
            self.come.extend_from_slice(&buffer[..read]);
            let mut at = 0;
            while let Some(next) = self.take(at, turn, &mut told)? {
                at = next;
            }
            self.come.drain(..at);
        }
        Ok(told)
    }

    /// Takes the frame that begins here, if all of it has come; where the next one begins.
    fn take(&mut self, at: usize, turn: &Turn, told: &mut Told) -> Result<Option<usize>> {
        let Some(head) = self.come.get(at..at + 9) else { return Ok(None) };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let end = at + 9 + length;
        let Some(payload) = self.come.get(at + 9..end) else { return Ok(None) };
        match kind {
            SETTINGS if flags & ACK == 0 => frame(&mut self.going, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(&mut self.going, PING, ACK, 0, payload),
            SETTINGS | PING | WINDOW_UPDATE => {}
            DATA | HEADERS => self.answer(kind, flags, stream, length, turn, told)?,
            other => return Err(format!("the server sends a frame of kind {other}").into()),
        }
        Ok(Some(end))
    }

    /// Notes what has come of a call, and makes the next one when that is all.
    fn answer(&mut self, kind: u8, flags: u8, stream: u32, length: usize, turn: &Turn, told: &mut Told) -> Result<()> {
        if kind == DATA {
            self.taken += length;
            if self.taken > REFILL {
                let taken = u32::try_from(std::mem::take(&mut self.taken))?;
                frame(&mut self.going, WINDOW_UPDATE, 0, 0, &taken.to_be_bytes());
            }
        }
        let place = (stream >> 1).checked_sub(self.first).and_then(|place| self.calls.get_mut(place as usize));
        let place = place.ok_or("an answer to no call")?;
        let call = place.as_mut().ok_or("an answer after the answer")?;
        call.made |= kind == DATA && length > 0;
        if flags & END_STREAM == 0 {
            return Ok(());
        }
        let (now, began, made) = (Instant::now(), call.began, call.made);
        *place = None;
        while self.calls.front().is_some_and(Option::is_none) {
            self.calls.pop_front();
            self.first += 1;
        }
        if !made {
            told.refused += 1;
        } else {
            told.answered += 1;
            if now >= turn.counts && now < turn.over {
                told.lengths.push(now - began);
            }
        }
        if now < turn.over {
            self.call(turn);
        }
        Ok(())
    }

    /// Flips one of the flags, any.
    fn call(&mut self, turn: &Turn) {
        // Knuth's generator; its high bits are the random ones.
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let flag = (self.random >> 33) as usize % turn.flags.len() + turn.flags.start;
        let number = self.first + self.calls.len() as u32;
        let stream = number * 2 + 1;
        frame(&mut self.going, HEADERS, END_HEADERS, stream, &headers(number == 0));
        let message = flip_request(flag).encode_to_vec();
        let body = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
        frame(&mut self.going, DATA, END_STREAM, stream, &body);
        self.calls.push_back(Some(Call { began: Instant::now(), made: false }));
    }
}

fn frame(going: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    going.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    going.extend_from_slice(&[kind, flags]);
    going.extend_from_slice(&stream.to_be_bytes());
    going.extend_from_slice(payload);
}

/// The headers of a flip: spelt out the first time, for the server to remember, and by their places in its table from then on,
/// as clients do (RFC 7541). The last one that was spelt out has the first place behind the 61 that are always there.
fn headers(first: bool) -> Vec<u8> {
    let authorization = format!("Bearer {TOKEN}");
    let spelt: [(&[u8], &str); 6] = [
        (&[0x44], "/toggled.v1.ToggleService/ToggleFeatureFlag"),
        (&[0x41], "bench"),
        (&[0x5f], "application/grpc"),
        (&[0x40, 2, b't', b'e'], "trailers"),
        (&[0x57], &authorization),
        (&[0x7a], "quick tonic/0.14.9"),
    ];
    // :method: POST and :scheme: http.
    let mut block = vec![0x83, 0x86];
    for (place, (name, value)) in spelt.iter().enumerate() {
        if first {
            block.extend_from_slice(name);
            block.push(value.len() as u8);
            block.extend_from_slice(value.as_bytes());
        } else {
            block.push(0x80 | (61 + spelt.len() - place) as u8);
        }
    }
    block
}
