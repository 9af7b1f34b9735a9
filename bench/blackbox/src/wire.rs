//! The network between the namespaces, in this process: every station has a TUN device, and a thread carries the packets
//! from one to the other, late, not at all, or at once, as the rules between the two say. It does what bridge and netem
//! do, needs neither in the kernel, and knows sender and receiver of each packet: one direction of one pair can fail.
//!
//! Invariants: bounded in packets under way; a packet that has waited its time is written whether or not the way was cut
//! meanwhile, as one that had left; chance comes from the seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bft_cli::exit::{Failure, Reason, because};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::ioctl::{Setter, ioctl, opcode};

use crate::draw::Draw;

/// Packets under way; more are dropped, as a router does.
const UNDER_WAY_MAX: usize = 50_000;
/// Packets taken from one device before the next is looked at.
const IN_A_ROW: usize = 64;
/// How long the thread sleeps at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Longer than any packet on such a device.
const PACKET_BYTES_MAX: usize = 2048;
/// Where the receiver is in an IPv4 header.
const DESTINATION: usize = 16;
/// How long that header is at least.
const HEADER_BYTES: usize = 20;

/// One end of the network, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station(pub usize);

/// What becomes of packets from one station to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They arrive, in this weather.
    Open(Weather),
    /// They are lost.
    Cut,
}

/// How well packets travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// How long each takes.
    pub delay: Duration,
    /// By how much it may take longer or shorter, evenly.
    pub jitter: Duration,
    /// How many of a thousand are lost.
    pub lost_of_1000: u64,
}

/// What can be changed while packets travel.
struct Rules {
    addresses: Vec<Option<Ipv4Addr>>,
    /// From, to.
    ways: Vec<Vec<Way>>,
}

/// What the thread and the handle share.
struct Shared {
    rules: Mutex<Rules>,
    is_over: AtomicBool,
    carried: AtomicU64,
    lost: AtomicU64,
}

impl Shared {
    fn rules(&self) -> MutexGuard<'_, Rules> {
        // Nothing that is done under this lock panics halfway.
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The network. Dropped, it ends.
pub struct Wire {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Connects these devices, each its station; all ways are open, and nobody has an address.
    pub fn start(devices: Vec<OwnedFd>, seed: u64) -> Result<Self, Failure> {
        let stations = devices.len();
        let rules = Rules {
            addresses: vec![None; stations],
            ways: vec![vec![Way::Open(Weather::default()); stations]; stations],
        };
        let shared = Arc::new(Shared {
            rules: Mutex::new(rules),
            is_over: AtomicBool::new(false),
            carried: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let carrier =
            Carrier { shared: shared.clone(), devices, under_way: BinaryHeap::new(), number: 0, draw: Draw::new(seed) };
        let thread = std::thread::Builder::new().name("wire".into()).spawn(|| carrier.run());
        Ok(Self { shared, thread: Some(thread.map_err(because(Reason::Unavailable))?) })
    }

    /// From now on `station` has this address. Where two have the same, a packet goes to the first that it can reach.
    pub fn set_address(&self, station: Station, address: Ipv4Addr) {
        self.shared.rules().addresses[station.0] = Some(address);
    }

    /// What becomes of packets of `from` to `to` from now on.
    pub fn set(&self, from: Station, to: Station, way: Way) {
        self.shared.rules().ways[from.0][to.0] = way;
    }

    /// The same in both directions, for all pairs of these.
    pub fn set_between(&self, ones: &[Station], others: &[Station], way: Way) {
        for one in ones {
            for other in others {
                self.set(*one, *other, way);
                self.set(*other, *one, way);
            }
        }
    }

    /// Packets that arrived, and packets that were lost.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.carried.load(Ordering::Relaxed), self.shared.lost.load(Ordering::Relaxed))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed there.
            let _ = thread.join();
        }
    }
}

/// A packet that arrives later; the earliest is the greatest.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Travelling {
    due: Reverse<Instant>,
    number: Reverse<u64>,
    to: usize,
    bytes: Vec<u8>,
}

struct Carrier {
    shared: Arc<Shared>,
    devices: Vec<OwnedFd>,
    under_way: BinaryHeap<Travelling>,
    number: u64,
    draw: Draw,
}

impl Carrier {
    fn run(mut self) {
        while !self.shared.is_over.load(Ordering::Relaxed) {
            self.deliver();
            for from in self.wait() {
                self.take(from);
            }
        }
    }

    /// Writes what is due.
    fn deliver(&mut self) {
        let now = Instant::now();
        while self.under_way.peek().is_some_and(|next| next.due.0 <= now) {
            let Travelling { to, bytes, .. } = self.under_way.pop().expect("just seen");
            self.write(to, &bytes);
        }
    }

    /// Waits for packets or the time of one; says which devices have some.
    fn wait(&self) -> Vec<usize> {
        let until_next = self.under_way.peek().map(|next| next.due.0.saturating_duration_since(Instant::now()));
        let timeout = until_next.unwrap_or(LOOK_INTERVAL).min(LOOK_INTERVAL);
        let timeout = Timespec { tv_sec: 0, tv_nsec: timeout.subsec_nanos().into() };
        let mut devices: Vec<_> = self.devices.iter().map(|device| PollFd::new(device, PollFlags::IN)).collect();
        // A signal interrupts it: then there is nothing to take, and the loop looks again.
        if poll(&mut devices, Some(&timeout)).is_err() {
            return Vec::new();
        }
        let has_some = |(index, device): (usize, &PollFd<'_>)| (!device.revents().is_empty()).then_some(index);
        devices.iter().enumerate().filter_map(has_some).collect()
    }

    fn take(&mut self, from: usize) {
        let mut packet = [0; PACKET_BYTES_MAX];
        for _ in 0..IN_A_ROW {
            // Empty, or a device that is not up yet.
            let Ok(len) = rustix::io::read(&self.devices[from], &mut packet) else { return };
            self.send(from, &packet[..len]);
        }
    }

    fn send(&mut self, from: usize, packet: &[u8]) {
        let Some((to, weather)) = self.way(from, packet) else { return self.lose() };
        if self.draw.below(1000) < weather.lost_of_1000 || self.under_way.len() >= UNDER_WAY_MAX {
            return self.lose();
        }
        let spread = u64::try_from(2 * weather.jitter.as_nanos()).expect("jitter is below a second");
        let late = Duration::from_nanos(self.draw.below(spread + 1));
        let delay = (weather.delay + late).saturating_sub(weather.jitter);
        if delay.is_zero() {
            return self.write(to, packet);
        }
        self.number += 1;
        let (due, number) = (Reverse(Instant::now() + delay), Reverse(self.number));
        self.under_way.push(Travelling { due, number, to, bytes: packet.to_vec() });
    }

    /// Where it goes, if it goes anywhere.
    fn way(&self, from: usize, packet: &[u8]) -> Option<(usize, Weather)> {
        let to = destination(packet)?;
        let rules = self.shared.rules();
        let mut ways = rules.addresses.iter().zip(&rules.ways[from]).enumerate();
        ways.find_map(|(index, (address, way))| match way {
            Way::Open(weather) if *address == Some(to) => Some((index, *weather)),
            Way::Open(_) | Way::Cut => None,
        })
    }

    /// What a device does not take is lost, as in any network.
    fn write(&mut self, to: usize, packet: &[u8]) {
        match rustix::io::write(&self.devices[to], packet) {
            Ok(_) => self.shared.carried.fetch_add(1, Ordering::Relaxed),
            Err(_) => self.shared.lost.fetch_add(1, Ordering::Relaxed),
        };
    }

    fn lose(&self) {
        self.shared.lost.fetch_add(1, Ordering::Relaxed);
    }
}

/// Of an IPv4 packet: there are no others here.
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    if packet.len() < HEADER_BYTES || packet[0] >> 4 != 4 {
        return None;
    }
    let bytes: [u8; 4] = packet[DESTINATION..HEADER_BYTES].try_into().expect("four bytes");
    Some(bytes.into())
}

/// `struct ifreq` with the flags of a device, as `TUNSETIFF` takes it.
#[repr(C)]
struct DeviceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// A TUN device of this name in the namespace of the caller. It lives as long as its descriptor.
pub fn device(name: &str) -> Result<OwnedFd, Failure> {
    const TUN: u16 = 1;
    const NO_PACKET_INFORMATION: u16 = 0x1000;
    const SET_INTERFACE: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);
    let refused = |error| {
        let what = format!("a TUN device: {error}; the kernel needs CONFIG_TUN, and /dev/net/tun must be there");
        Failure::new(Reason::Unavailable, what)
    };
    let device = open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    let device = device.map_err(refused)?;
    let mut request = DeviceRequest { name: [0; 16], flags: TUN | NO_PACKET_INFORMATION, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the number is TUNSETIFF's, and the kernel reads a `struct ifreq` there, 40 bytes long.
    unsafe { ioctl(&device, Setter::<SET_INTERFACE, DeviceRequest>::new(request)) }.map_err(refused)?;
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    /// A device that is none: what the network writes to it comes out at the other end.
    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::NONBLOCK, None).unwrap()
    }

    fn packet(to: u8, number: u8) -> Vec<u8> {
        let mut packet = vec![0; HEADER_BYTES + 1];
        packet[0] = 0x45;
        packet[DESTINATION..HEADER_BYTES].copy_from_slice(&[10, 0, 0, to]);
        packet[HEADER_BYTES] = number;
        packet
    }

    /// Waits until `packets` have arrived or been lost since the start; gives what lies at `end` then.
    fn all_of(wire: &Wire, packets: u64, end: &OwnedFd) -> Vec<u8> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while wire.counts().0 + wire.counts().1 < packets {
            assert!(Instant::now() < deadline, "{:?} of {packets}", wire.counts());
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut bytes = [0; 64];
        let next = |_| rustix::io::read(end, &mut bytes).ok().map(|_| bytes[HEADER_BYTES]);
        (0..).map_while(next).collect()
    }

    struct Three {
        wire: Wire,
        ends: Vec<OwnedFd>,
    }

    fn three() -> Three {
        let (devices, ends) = (0..3).map(|_| pair()).unzip();
        let wire = Wire::start(devices, 1).unwrap();
        (0..3_u8).for_each(|index| wire.set_address(Station(index.into()), [10, 0, 0, index].into()));
        Three { wire, ends }
    }

    #[test]
    fn packets_go_where_they_are_sent_and_strange_ones_nowhere() {
        let Three { wire, ends } = three();
        for bytes in [packet(1, 7), packet(2, 8), packet(9, 9), vec![0x60; 40], vec![0x45; 3]] {
            rustix::io::write(&ends[0], &bytes).unwrap();
        }
        assert_eq!(all_of(&wire, 5, &ends[1]), [7]);
        assert_eq!(all_of(&wire, 5, &ends[2]), [8]);
        assert_eq!(wire.counts(), (2, 3));
    }

    #[test]
    fn a_way_is_cut_in_one_direction_alone_and_of_two_with_one_address_the_reachable_one_gets_it() {
        let Three { wire, ends } = three();
        wire.set(Station(0), Station(1), Way::Cut);
        rustix::io::write(&ends[0], &packet(1, 1)).unwrap();
        rustix::io::write(&ends[1], &packet(0, 2)).unwrap();
        assert_eq!(all_of(&wire, 2, &ends[0]), [2]);
        assert_eq!(all_of(&wire, 2, &ends[1]), [0; 0]);
        wire.set_address(Station(2), [10, 0, 0, 1].into());
        rustix::io::write(&ends[0], &packet(1, 3)).unwrap();
        assert_eq!(all_of(&wire, 3, &ends[2]), [3]);
    }

    #[test]
    fn bad_weather_makes_packets_late_and_loses_about_as_many_as_it_says() {
        let Three { wire, ends } = three();
        let delay = Duration::from_millis(50);
        let late = Weather { delay, jitter: Duration::from_millis(20), lost_of_1000: 0 };
        wire.set(Station(0), Station(1), Way::Open(late));
        let sent = Instant::now();
        rustix::io::write(&ends[0], &packet(1, 1)).unwrap();
        assert_eq!(all_of(&wire, 1, &ends[1]), [1]);
        assert!(sent.elapsed() >= Duration::from_millis(30), "it came after {:?}", sent.elapsed());
        wire.set(Station(0), Station(1), Way::Open(Weather { lost_of_1000: 300, ..Weather::default() }));
        for number in 0..200 {
            rustix::io::write(&ends[0], &packet(1, number)).unwrap();
            let came = all_of(&wire, u64::from(number) + 2, &ends[1]);
            assert!(came.is_empty() || came == [number]);
        }
        let (carried, lost) = wire.counts();
        assert_eq!(carried + lost, 201);
        assert!((30..90).contains(&lost), "{lost} of 200 were lost");
    }
}
