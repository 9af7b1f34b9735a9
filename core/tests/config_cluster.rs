//! `cluster.toml`: what is read and written, and every message for what is not read, in full.

use bft_core::auth::{Ed25519, Scheme};
use bft_core::config::file::{parse_cluster, write_cluster};
use bft_core::config::{Admission, Cipher, ClusterConfig, ConfigInvalid, Member, ProtocolParams};
use bft_core::ids::{ClusterId, Epoch, PublicKey};
use bft_core::limits;
use proptest::prelude::*;

fn key(n: u8) -> PublicKey {
    Ed25519::new(&[n; 32], [0; 32]).public_key()
}

/// The lines that most tests change one of.
fn lines() -> Vec<String> {
    let mut text = format!("version = 1\ncluster_id = \"{}\"\nepoch = 0\n", ClusterId([7; 32]));
    text.push_str("[protocol]\nview_timeout = \"500ms\"\n[clients]\nadmit = \"any\"\n");
    for id in 0..4u8 {
        text.push_str(&format!("[[replica]]\nid = {id}\npublic_key = \"{}\"\naddress = \"h{id}:47\"\n", key(id)));
    }
    text.lines().map(str::to_owned).collect()
}

fn parse(text: &str) -> Result<ClusterConfig, String> {
    parse_cluster(text, "cluster.toml").map_err(|error| error.to_string())
}

/// The message after line `number`, from 1, was replaced by `with`.
fn error_with(number: usize, with: &str) -> String {
    let mut lines = lines();
    lines[number - 1] = with.into();
    parse(&lines.join("\n")).unwrap_err()
}

#[test]
fn a_short_file_has_the_defaults() {
    let config = parse(&lines().join("\n")).unwrap();
    assert_eq!(config.cluster_id(), ClusterId([7; 32]));
    assert_eq!(config.epoch(), Epoch(0));
    assert_eq!(*config.params(), ProtocolParams::default());
    assert_eq!(config.admission(), Admission::Any);
    let members: Vec<_> =
        (0..4u8).map(|id| Member { weight: 1, public_key: key(id), address: format!("h{id}:47") }).collect();
    assert_eq!(config.members(), members);
}

#[test]
fn replicas_stand_in_any_order() {
    let lines = lines();
    let (head, replicas) = lines.split_at(7);
    let turned: Vec<_> = replicas.chunks(4).rev().flatten().collect();
    let text: String = head.iter().chain(turned).map(|line| format!("{line}\n")).collect();
    assert_eq!(parse(&text), parse(&lines.join("\n")));
}

#[test]
fn what_is_left_out_follows_what_is_there() {
    let params = |protocol: &str| {
        let mut lines = lines();
        lines[4] = protocol.into();
        parse(&lines.join("\n")).unwrap().params().clone()
    };
    let small = params("checkpoint_interval = 8");
    assert_eq!((small.window, small.pipeline_max), (16, 16));
    let tight = params("batch_bytes_max = \"64KiB\"");
    assert_eq!(tight.request_bytes_max, 64 * 1024 - 8);
    let large = params("batch_bytes_max = \"4MiB\"\ncipher = \"chacha20-poly1305\"");
    assert_eq!((large.request_bytes_max, large.cipher), (256 * 1024, Cipher::ChaChaPoly));
}

#[test]
fn every_mistake_has_a_place_and_a_reason() {
    let other_key = key(1);
    let wrong: Vec<(usize, String, String)> = [
        (1, "version = 2", "cluster.toml:1:11: version: the file has version 2; this program reads version 1"),
        (1, "", "cluster.toml: version: missing; this program reads version 1"),
        (1, "version = \"1\"", "cluster.toml:1:11: version: expected a whole number, 0 or more, found \"1\""),
        (2, "", "cluster.toml: cluster_id: missing"),
        (
            2,
            "cluster_id = \"07\"",
            "cluster.toml:2:14: cluster_id: expected 64 lower-case hexadecimal digits, found 2 digits",
        ),
        (
            2,
            "cluster_id = \"07AB\"",
            "cluster.toml:2:14: cluster_id: expected 64 lower-case hexadecimal digits, found 'A' among them",
        ),
        (3, "epoch = -1", "cluster.toml:3:9: epoch: expected a whole number, 0 or more, found -1"),
        (3, "epoche = 0", "cluster.toml:3:1: epoche: unknown key; did you mean `epoch`?"),
        (4, "[protocoll]", "cluster.toml:4:2: protocoll: unknown key; did you mean `protocol`?"),
        (5, "windw = 256", "cluster.toml:5:1: protocol.windw: unknown key; did you mean `window`?"),
        (
            5,
            "reply_cache_bytes = 1",
            "cluster.toml:5:1: protocol.reply_cache_bytes: unknown key; did you mean `reply_cache_bytes_max`?",
        ),
        (5, "window = 100", "cluster.toml:5:10: protocol.window is 100, but must be 256 to 256"),
        (
            5,
            "checkpoint_interval = 100",
            "cluster.toml:5:23: protocol.checkpoint_interval is 100, but must be a power of two",
        ),
        (
            5,
            "checkpoint_interval = 9223372036854775807",
            "cluster.toml:5:23: protocol.checkpoint_interval is 9223372036854775807, but must be 1 to 2048",
        ),
        (
            5,
            "reply_cache_bytes_max = \"1KiB\"",
            "cluster.toml:5:25: protocol.reply_cache_bytes_max is 1024, but must be 262144 to 17179869184",
        ),
        (
            5,
            "reply_bytes_max = \"1B\"",
            "cluster.toml:5:19: protocol.reply_bytes_max is 1, but must be 64 to 4194304",
        ),
        (5, "batch_bytes_max = \"4GiB\"", "cluster.toml:5:19: protocol.batch_bytes_max: 4GiB is too much"),
        (
            5,
            "snapshot_slots = 129",
            "cluster.toml:5:18: protocol.snapshot_slots is 129, but must be a multiple of protocol.checkpoint_interval (128)",
        ),
        (
            5,
            "view_timeout = \"1ms\"",
            "cluster.toml:5:16: protocol.view_timeout is 1000000, but must be 10000000 to 60000000000; these are nanoseconds: \"1s\" is 1000000000",
        ),
        (5, "view_timeout = 500", "cluster.toml:5:16: protocol.view_timeout: expected a time such as \"50ms\", found 500"),
        (
            5,
            "cipher = \"aes\"",
            "cluster.toml:5:10: protocol.cipher: unknown value \"aes\"; possible are aes-gcm, chacha20-poly1305",
        ),
        (6, "", "cluster.toml:7:1: protocol.admit: unknown key; the keys here are checkpoint_interval, window, \
            pipeline_max, request_bytes_max, request_operations_max, batch_requests_max, batch_bytes_max, client_window, \
            sessions_max, reply_bytes_max, reply_cache_bytes_max, snapshot_bytes, snapshot_slots, view_timeout, cipher"),
        (7, "", "cluster.toml:6:1: clients.admit: missing"),
        (
            7,
            "admit = \"all\"",
            "cluster.toml:7:9: clients.admit: unknown value \"all\"; possible are any, certified",
        ),
        (
            7,
            "admit = \"certified\"",
            "cluster.toml:7:9: clients.authority: missing while `admit` is \"certified\"; set it to the public key of who certifies clients",
        ),
        (9, "id = 7", "cluster.toml:9:6: replica[0].id: there are 4 replicas, so their ids are 0 to 3, not 7"),
        (13, "id = 0", "cluster.toml:13:6: replica[1].id: replica[0] has the id 0 already"),
        (13, "", "cluster.toml:12:1: replica[1].id: missing"),
        (13, "id = 1\nweight = 0", "cluster.toml:14:10: replica 1 has weight 0; the least is 1"),
        (13, "id = 1\nweight = 4294967296", "cluster.toml:8:1: the weights add up to more than 4294967296"),
        (15, "address = \"h1\"", "cluster.toml:15:11: replica[1].address: \"h1\" is no address; write host:port, as in 10.0.0.1:4710"),
        (15, "address = \"h0:47\"", "cluster.toml:15:11: replica[1].address: h0:47 is the address of replica 0 already"),
        (15, "adress = \"h1:47\"", "cluster.toml:15:1: replica[1].adress: unknown key; did you mean `address`?"),
    ]
    .map(|(number, with, message)| (number, with.to_owned(), message.to_owned()))
    .to_vec();
    for (number, with, message) in wrong {
        assert_eq!(error_with(number, &with), message, "{with}");
    }
    let authority = format!("admit = \"any\"\nauthority = \"{other_key}\"");
    assert_eq!(
        error_with(7, &authority),
        "cluster.toml:8:13: clients.authority: has no use while `admit` is \"any\"; take it out, or set `admit` to \"certified\""
    );
    let bad_authority = format!("admit = \"certified\"\nauthority = \"{}\"", PublicKey::ZERO);
    assert_eq!(
        error_with(7, &bad_authority),
        format!("cluster.toml:8:13: the public key of the client authority is not usable: {}", PublicKey::ZERO)
    );
    let no_replicas = lines()[..7].join("\n");
    assert_eq!(parse(&no_replicas).unwrap_err(), "cluster.toml: replica: missing");
    let none = format!("replica = []\n{no_replicas}");
    assert_eq!(parse(&none).unwrap_err(), "cluster.toml:1:11: a cluster has 1 to 31 replicas, not 0");
}

#[test]
fn o2_two_replicas_with_one_key_are_refused_at_their_line() {
    let same = format!("public_key = \"{}\"", key(0));
    assert_eq!(error_with(14, &same), "cluster.toml:14:14: replicas 0 and 1 have the same public key");
    let weak = format!("public_key = \"{}\"", PublicKey::ZERO);
    assert_eq!(
        error_with(14, &weak),
        format!("cluster.toml:14:14: the public key of replica 1 is not usable: {}", PublicKey::ZERO)
    );
}

#[test]
fn o2_files_that_differ_in_more_than_addresses_have_other_digests() {
    let digest = |number: usize, with: &str| {
        let mut lines = lines();
        lines[number - 1] = with.into();
        parse(&lines.join("\n")).unwrap().digest()
    };
    let same = digest(15, "address = \"elsewhere:1\"");
    assert_eq!(same, parse(&lines().join("\n")).unwrap().digest());
    assert_eq!(same, digest(5, "# every default is the default"));
    let mut digests = vec![same];
    let changes = [
        (2, format!("cluster_id = \"{}\"", ClusterId([8; 32]))),
        (3, "epoch = 1".to_owned()),
        (5, "client_window = 63".to_owned()),
        (7, format!("admit = \"certified\"\nauthority = \"{}\"", key(9))),
        (13, "id = 1\nweight = 2".to_owned()),
        (14, format!("public_key = \"{}\"", key(9))),
    ];
    for (number, with) in changes {
        let digest = digest(number, &with);
        assert!(!digests.contains(&digest), "{with}");
        digests.push(digest);
    }
}

#[test]
fn addresses_are_a_host_and_a_port() {
    for good in ["a.example:1", "10.0.0.1:65535", "[::1]:4710", "[2001:db8::7]:1", "r-0_x:9"] {
        let mut lines = lines();
        lines[14] = format!("address = \"{good}\"");
        assert!(parse(&lines.join("\n")).is_ok(), "{good}");
    }
    for bad in ["", ":1", "a:", "a:0", "a:65536", "a:+1", "::1:1", "[::g]:1", "a b:1", "a:1:2", "http://a:1", "[a]:1"] {
        assert!(
            error_with(15, &format!("address = \"{bad}\"")).ends_with("write host:port, as in 10.0.0.1:4710"),
            "{bad}"
        );
    }
}

#[test]
fn what_is_written_explains_itself() {
    let config = parse(&lines().join("\n")).unwrap();
    let expected = format!(
        r#"# A cluster: the same bytes at every replica and client.
version = 1
# The cluster's name, drawn at random when it was made.
cluster_id = "{}"
# Counts changes of membership.
epoch = 0

[protocol]
# Slots between two checkpoints: a power of two.
checkpoint_interval = 128
# Slots that may be open at a time: twice the interval.
window = 256
# Slots that the primary keeps in flight.
pipeline_max = 32
# The largest Request, and how many operations it may have.
request_bytes_max = "256KiB"
request_operations_max = 4096
# The largest batch, in Requests and in bytes.
batch_requests_max = 4096
batch_bytes_max = "1MiB"
# Requests that a client may have outstanding.
client_window = 64
# Clients at a time.
sessions_max = 10240
# The results of one Request, and all results that are kept until clients have them.
reply_bytes_max = "256KiB"
reply_cache_bytes_max = "32MiB"
# A snapshot is due after so many bytes, or slots, of work.
snapshot_bytes = "256MiB"
snapshot_slots = 131072
# How long a replica waits for progress before it asks for another primary.
view_timeout = "500ms"
# How links are sealed: "aes-gcm" or "chacha20-poly1305".
cipher = "aes-gcm"

# Who may be a client: "any" (for a laboratory), or "certified" by the authority.
[clients]
admit = "any"

[[replica]]
id = 0
weight = 1
public_key = "{}"
address = "h0:47"
"#,
        ClusterId([7; 32]),
        key(0)
    );
    let written = write_cluster(&config);
    assert_eq!(&written[..expected.len()], expected);
    assert_eq!(written.matches("[[replica]]").count(), 4);
}

prop_compose! {
    fn any_params()(
        level in 0u32..12,
        pipeline in 1u64..=2,
        sizes in (1024u32..8 << 20, 64u32..4 << 20, 1u64..1 << 40),
        counts in (1u32..=4096, 1u32..=4096, 1u64..=1024, 1u32..=1 << 20),
        slots in 1u64..1000,
        view_timeout in 10_000_000u64..60_000_000_000,
        cache in 0u64..1 << 33,
        chacha in any::<bool>(),
    ) -> ProtocolParams {
        let checkpoint_interval = 1 << level;
        let (batch_bytes_max, reply_bytes_max, snapshot_bytes) = sizes;
        let (request_operations_max, batch_requests_max, client_window, sessions_max) = counts;
        ProtocolParams {
            checkpoint_interval,
            window: 2 * checkpoint_interval,
            pipeline_max: pipeline,
            request_bytes_max: batch_bytes_max / 2,
            request_operations_max,
            batch_requests_max,
            batch_bytes_max,
            client_window,
            sessions_max,
            reply_bytes_max,
            reply_cache_bytes: cache + u64::from(reply_bytes_max),
            snapshot_bytes,
            snapshot_slots: slots * checkpoint_interval,
            view_timeout,
            cipher: if chacha { Cipher::ChaChaPoly } else { Cipher::AesGcm },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_back(
        params in any_params(),
        id in any::<[u8; 32]>(),
        epoch in any::<u64>(),
        weights in prop::collection::vec(1u64..100_000_000, 1..=31),
        certified in any::<bool>(),
    ) {
        let member = |(n, weight)| Member { weight, public_key: key(n), address: format!("[::{n}]:4710") };
        let fits = |n: &u8| limits::new_view_bytes((*n).into(), params.window) <= limits::NEW_VIEW_FRAME_BYTES;
        let members = (0..31).take_while(|n| fits(&(n + 1))).zip(weights).map(member).collect();
        let admission = if certified { Admission::Certified(key(200)) } else { Admission::Any };
        let config = ClusterConfig::new(ClusterId(id), Epoch(epoch), params, admission, members).unwrap();
        let text = write_cluster(&config);
        let read = parse(&text).unwrap();
        prop_assert_eq!(read.digest(), config.digest());
        prop_assert_eq!(write_cluster(&read), text);
        prop_assert_eq!(read, config);
    }

    #[test]
    fn no_text_makes_it_panic(cut in any::<prop::sample::Index>(), junk in "(?s).{0,6}", line in 0usize..23) {
        let mut lines = lines();
        let at = (0..=lines[line].len()).nth(cut.index(lines[line].len() + 1)).unwrap();
        lines[line].replace_range(at.., &junk);
        if let Err(error) = parse_cluster(&lines.join("\n"), "cluster.toml") {
            prop_assert!(error.to_string().starts_with("cluster.toml"));
        }
    }
}

#[test]
fn v15_a_window_whose_new_view_would_pass_its_frame_is_refused() {
    let cluster = |replicas: u8, window: u64| {
        let member = |id: u8| Member { weight: 1, public_key: key(id + 1), address: format!("h{id}:47") };
        let params = ProtocolParams {
            checkpoint_interval: window / 2,
            window,
            snapshot_slots: 1 << 16,
            ..ProtocolParams::default()
        };
        let members = (0..replicas).map(member).collect();
        ClusterConfig::new(ClusterId([7; 32]), Epoch(0), params, Admission::Any, members)
    };
    for (replicas, most) in [(4, 4096), (7, 4096), (10, 2048), (16, 1024), (31, 256)] {
        let config = cluster(replicas, most).expect("it fits");
        assert!(limits::new_view_bytes(config.n(), most) <= limits::NEW_VIEW_FRAME_BYTES);
        if 2 * most <= limits::WINDOW_MAX {
            let expected = ConfigInvalid::Window { window: 2 * most, replicas: replicas.into(), most };
            assert_eq!(cluster(replicas, 2 * most).unwrap_err(), expected);
        }
    }
    let mut lines = lines();
    lines[4] = "checkpoint_interval = 2048".into();
    lines.extend(
        (4..13u8).map(|id| format!("[[replica]]\nid = {id}\npublic_key = \"{}\"\naddress = \"h{id}:47\"", key(id))),
    );
    assert_eq!(
        parse(&lines.join("\n")).unwrap_err(),
        "cluster.toml:5:23: protocol.window is 4096; 13 replicas can change the view over at most 1024 slots, because a \
         NEW-VIEW must fit its frame of 32 MiB: take a checkpoint_interval of half of that, or fewer replicas"
    );
}
