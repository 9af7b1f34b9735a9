//! Files that people write: what is read, and every message for what is not, in full.

use std::collections::BTreeMap;

use bft_core::config::strict::{ByteSize, Document, FileError, HumanDuration, Place, parse};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Deserialize)]
struct Settings {
    name: String,
    replica: Option<u16>,
    #[serde(default)]
    cores: Vec<u32>,
    #[serde(default)]
    log: Log,
    #[serde(default)]
    peer: Vec<Peer>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
struct Log {
    level: Option<Level>,
    colour: Option<bool>,
    keep: Option<ByteSize>,
    flush: Option<HumanDuration>,
    ratio: Option<f64>,
    offset: Option<i64>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Info,
    Debug,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Peer {
    address: String,
}

fn error(text: &str) -> String {
    parse::<Settings>(text, "bftd.toml").unwrap_err().to_string()
}

#[test]
fn a_file_is_read() {
    let text = r#"
name = "first"          # a comment
replica = 3
cores = [0, 1]
[log]
level = "debug"
colour = true
keep = "64MiB"
flush = "50ms"
ratio = 0.5
offset = -7
[[peer]]
address = "a"
[[peer]]
address = "b"
"#;
    let log = Log {
        level: Some(Level::Debug),
        colour: Some(true),
        keep: Some(ByteSize(64 << 20)),
        flush: Some(HumanDuration(50_000_000)),
        ratio: Some(0.5),
        offset: Some(-7),
    };
    let peer = |address: &str| Peer { address: address.into() };
    let peers = vec![peer("a"), peer("b")];
    let expected = Settings { name: "first".into(), replica: Some(3), cores: vec![0, 1], log, peer: peers };
    assert_eq!(parse::<Settings>(text, "bftd.toml"), Ok(expected));
}

#[test]
fn every_mistake_has_a_place_and_a_reason() {
    let wrong = [
        // Not TOML.
        ("name = ", "bftd.toml:1:8: string values must be quoted, expected literal string"),
        ("name = \"a\"\n[log\n", "bftd.toml:2:5: unclosed table, expected `]`"),
        ("name = \"ä\" ö", "bftd.toml:1:12: unexpected key or value, expected newline, `#`"),
        ("name = \"a\"\nname = \"b\"", "bftd.toml:2:1: duplicate key"),
        ("name = 99999999999999999999999999999999999999999", "bftd.toml:1:8: name: the number is too large"),
        ("cores = [1, 99999999999999999999999999999999999999999]", "bftd.toml:1:13: cores[1]: the number is too large"),
        // Keys.
        ("nam = \"a\"", "bftd.toml:1:1: nam: unknown key; did you mean `name`?"),
        ("name = \"a\"\nxyz = 1", "bftd.toml:2:1: xyz: unknown key; the keys here are name, replica, cores, log, peer"),
        ("name = \"a\"\n\n[log]\n  levle = \"info\"", "bftd.toml:4:3: log.levle: unknown key; did you mean `level`?"),
        ("name = \"a\"\nlog.LEVEL = \"info\"", "bftd.toml:2:5: log.LEVEL: unknown key; did you mean `level`?"),
        ("name = \"a\"\n[lag]\nlevel = 1", "bftd.toml:2:2: lag: unknown key; did you mean `log`?"),
        (
            "name = \"a\"\n[[peer]]\naddres = \"b\"",
            "bftd.toml:3:1: peer[0].addres: unknown key; did you mean `address`?",
        ),
        ("", "bftd.toml: name: missing"),
        ("name = \"a\"\n[[peer]]\naddress = \"a\"\n[[peer]]\n", "bftd.toml:4:1: peer[1].address: missing"),
        // Types.
        ("name = 5", "bftd.toml:1:8: name: expected text in quotes, found 5"),
        ("name = 2026-11-21", "bftd.toml:1:8: name: expected text in quotes, found the date 2026-11-21"),
        ("name = [\"a\"]", "bftd.toml:1:8: name: expected text in quotes, found a list"),
        (
            "name = \"a\"\nreplica = \"3\"",
            "bftd.toml:2:11: replica: expected a whole number from 0 to 65535, found \"3\"",
        ),
        (
            "name = \"a\"\nreplica = 65536",
            "bftd.toml:2:11: replica: expected a whole number from 0 to 65535, found 65536",
        ),
        ("name = \"a\"\nreplica = -1", "bftd.toml:2:11: replica: expected a whole number from 0 to 65535, found -1"),
        ("name = \"a\"\nreplica = 1.5", "bftd.toml:2:11: replica: expected a whole number from 0 to 65535, found 1.5"),
        (
            "name = \"a\"\nreplica = 99999999999999999999",
            "bftd.toml:2:11: replica: expected a whole number from 0 to 65535, found 99999999999999999999",
        ),
        ("name = \"a\"\ncores = 1", "bftd.toml:2:9: cores: expected a list, found 1"),
        (
            "name = \"a\"\ncores = [0,\n  true]",
            "bftd.toml:3:3: cores[1]: expected a whole number from 0 to 4294967295, found true",
        ),
        ("name = \"a\"\nlog = 1", "bftd.toml:2:7: log: expected a section, found 1"),
        ("name = \"a\"\n[log]\ncolour = \"yes\"", "bftd.toml:3:10: log.colour: expected true or false, found \"yes\""),
        ("name = \"a\"\n[[log]]\n", "bftd.toml:2:1: log: expected a section, found a list"),
        // Values.
        (
            "name = \"a\"\n[log]\nlevel = \"inof\"",
            "bftd.toml:3:9: log.level: unknown value \"inof\"; did you mean `info`?",
        ),
        (
            "name = \"a\"\n[log]\nlevel = \"loud\"",
            "bftd.toml:3:9: log.level: unknown value \"loud\"; possible are info, debug",
        ),
        ("name = \"a\"\n[log]\nlevel = 1", "bftd.toml:3:9: log.level: expected text in quotes, found 1"),
        (
            "name = \"a\"\n[log]\nkeep = \"64MB\"",
            "bftd.toml:3:8: log.keep: \"64MB\" is no size: write a number and one of B, KiB, MiB, GiB, TiB, as in 64MiB",
        ),
        ("name = \"a\"\n[log]\nkeep = true", "bftd.toml:3:8: log.keep: expected a size such as \"64MiB\", found true"),
        ("name = \"a\"\n[log]\nkeep = -1", "bftd.toml:3:8: log.keep: expected a size such as \"64MiB\", found -1"),
        (
            "name = \"a\"\n[log]\nflush = \"50\"",
            "bftd.toml:3:9: log.flush: \"50\" is no time: write a number and one of ns, us, ms, s, min, h, d, as in 50ms",
        ),
        ("name = \"a\"\n[log]\nflush = 50", "bftd.toml:3:9: log.flush: expected a time such as \"50ms\", found 50"),
    ];
    for (text, message) in wrong {
        assert_eq!(error(text), message, "{text}");
    }
}

#[test]
fn a_file_beyond_reason_is_not_parsed() {
    let long = "#".repeat((1 << 20) + 1);
    assert_eq!(error(&long), "bftd.toml: the file has 1048577 bytes; at most 1048576 are read");
    let deep = format!("name{} = 1", ".a".repeat(100_000));
    assert_eq!(error(&deep), "bftd.toml: recursion limit");
    let long_key = format!("\"{}\" = 1", "k\\n".repeat(100_000));
    let shown = "k\\n".repeat(40);
    let message =
        format!("bftd.toml:1:1: \"{shown}\"…: unknown key; the keys here are name, replica, cores, log, peer");
    assert_eq!(error(&long_key), message);
}

fn overridden(variables: &[(&str, &str)]) -> Result<Settings, FileError> {
    let mut document = Document::parse("name = \"file\"\nreplica = 1\n[log]\nlevel = \"info\"\n", "bftd.toml").unwrap();
    document.set_from_variables("BFTD_", variables.iter().copied())?;
    document.read()
}

#[test]
fn variables_override_the_file() {
    let settings = overridden(&[
        ("PATH", "/bin"),
        ("BFTD_NAME", "123"),
        ("BFTD_REPLICA", "2"),
        ("BFTD_LOG__LEVEL", "debug"),
        ("BFTD_LOG__COLOUR", "false"),
        ("BFTD_LOG__KEEP", "1KiB"),
        ("BFTD_LOG__FLUSH", "1.5s"),
        ("BFTD_LOG__OFFSET", "-3"),
        ("BFTD_CORES", "[2, 3]"),
    ])
    .unwrap();
    let log = Log {
        level: Some(Level::Debug),
        colour: Some(false),
        keep: Some(ByteSize(1024)),
        flush: Some(HumanDuration(1_500_000_000)),
        ratio: None,
        offset: Some(-3),
    };
    assert_eq!(settings, Settings { name: "123".into(), replica: Some(2), cores: vec![2, 3], log, peer: vec![] });
    assert_eq!(overridden(&[("BFTD_LOG__KEEP", "4096")]).unwrap().log.keep, Some(ByteSize(4096)));
}

#[test]
fn a_wrong_variable_is_named() {
    let wrong: [(&[(&str, &str)], &str); 10] = [
        (&[("BFTD_NAMES", "x")], "BFTD_NAMES: names: unknown key; did you mean `name`?"),
        (&[("BFTD_LOG__LEVLE", "info")], "BFTD_LOG__LEVLE: log.levle: unknown key; did you mean `level`?"),
        (&[("BFTD_LOGG__LEVEL", "info")], "BFTD_LOGG__LEVEL: logg: unknown key; did you mean `log`?"),
        (&[("BFTD_REPLICA", "two")], "BFTD_REPLICA: replica: expected a whole number from 0 to 65535, found \"two\""),
        (
            &[("BFTD_CORES", "[1, \"x\"]")],
            "BFTD_CORES: cores[1]: expected a whole number from 0 to 4294967295, found \"x\"",
        ),
        (&[("BFTD_LOG", "info")], "BFTD_LOG: log: expected a section, found \"info\""),
        (&[("BFTD_NAME__FIRST", "x")], "BFTD_NAME__FIRST: name.first: `name` is no section"),
        (&[("BFTD_LOG__LEVEL", "debug"), ("BFTD_LOG", "x")], "BFTD_LOG__LEVEL: log.level: `log` is no section"),
        (&[("BFTD_", "x")], "BFTD_: `` is no key"),
        (&[("BFTD_LOG__", "x")], "BFTD_LOG__: `log.` is no key"),
    ];
    for (variables, message) in wrong {
        assert_eq!(overridden(variables).unwrap_err().to_string(), message);
    }
    let error = overridden(&[("BFTD_REPLICA", "two")]).unwrap_err();
    assert_eq!(error.place, Place::Override { source: "BFTD_REPLICA".into() });
}

#[test]
fn flags_override_variables() {
    let mut document = Document::parse("name = \"file\"", "bftd.toml").unwrap();
    document.set_from_variables("BFTD_", [("BFTD_NAME", "variable")]).unwrap();
    document.set("name", "flag", "--name").unwrap();
    document.set("log.keep", "lots", "--keep").unwrap();
    let error = document.read::<Settings>().unwrap_err();
    assert_eq!(error.place, Place::Override { source: "--keep".into() });
    document.set("log.keep", "1MiB", "--keep").unwrap();
    assert_eq!(document.read::<Settings>().unwrap().name, "flag");
}

#[test]
fn later_checks_find_their_place() {
    let mut document =
        Document::parse("name = \"a\"\n[log]\n  level = \"info\"\n[[peer]]\naddress = \"b\"", "x").unwrap();
    document.set("log.keep", "1", "--keep").unwrap();
    let place = |key: &str| document.error(key, "what").place.to_string();
    assert_eq!(place("log.level"), "x:3:11");
    assert_eq!(place("log.flush"), "x:2:1", "the section of a key that is not there");
    assert_eq!(place("peer[0].address"), "x:5:11");
    assert_eq!(place("peer[1].address"), "x:4:1");
    assert_eq!(place("log.keep"), "--keep");
    assert_eq!(place("other"), "x");
    let error = document.error("name", "name: taken").with_hint("choose another");
    assert_eq!(error.to_string(), "x:1:8: name: taken; choose another");
    assert_eq!(document.read_key::<String>("name"), Ok(Some("a".into())));
    assert_eq!(document.read_key::<String>("nom"), Ok(None));
    assert_eq!(
        document.read_key::<u8>("name").unwrap_err().what,
        "name: expected a whole number from 0 to 255, found \"a\""
    );
}

#[test]
fn sizes_and_times_read_as_people_write_them() {
    let sizes = [("0", 0), ("7", 7), ("7B", 7), ("1KiB", 1024), ("1.5 KiB", 1536), ("16TiB", 16 << 40)];
    for (text, bytes) in sizes {
        assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
    }
    for text in ["", "KiB", "-1", "1kib", "1.B", "0.3KiB", "1..5KiB", "16777216TiB", "1e3", " 1", "1_000", "１B"] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
    let times = [
        ("50ms", 50_000_000),
        ("0s", 0),
        ("0.25 s", 250_000_000),
        ("2min", 120_000_000_000),
        ("1d", 86_400_000_000_000),
    ];
    for (text, ns) in times {
        assert_eq!(text.parse(), Ok(HumanDuration(ns)), "{text}");
    }
    for text in ["", "50", "50m", "0.5ns", "s", "999999999999d", "1.00000000000000000000000000000000000000001s"] {
        assert!(text.parse::<HumanDuration>().is_err(), "{text}");
    }
    let printed =
        [ByteSize(0), ByteSize(1000), ByteSize(1536), ByteSize(1 << 20), ByteSize(3 << 41)].map(|s| s.to_string());
    assert_eq!(printed, ["0B", "1000B", "1536B", "1MiB", "6TiB"]);
    let printed = [0, 500_000_000, 1_500_000_000, 60_000_000_000, 1].map(|ns| HumanDuration(ns).to_string());
    assert_eq!(printed, ["0ns", "500ms", "1500ms", "1min", "1ns"]);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Both {
    size: ByteSize,
    time: HumanDuration,
}

proptest! {
    #[test]
    fn sizes_and_times_go_both_ways(bytes in any::<u64>(), shift in 0u32..64, ns in any::<u64>()) {
        let both = Both { size: ByteSize(bytes >> shift << (shift / 2)), time: HumanDuration(ns >> shift) };
        let text = toml::to_string(&both).unwrap();
        prop_assert_eq!(parse::<Both>(&text, "x"), Ok(both));
    }

    #[test]
    fn no_text_makes_it_panic(text in "(?s).{0,80}", keys in prop::collection::vec(("[a-zA-Z_.]{0,12}", "(?s).{0,12}"), 0..4)) {
        let _ = parse::<Settings>(&text, "x").map_err(|error| error.to_string());
        let _ = parse::<BTreeMap<String, f64>>(&text, "x");
        let _ = text.parse::<ByteSize>().is_ok() || text.parse::<HumanDuration>().is_ok();
        let mut document = Document::parse("name = \"a\"\n[log]\n", "x").unwrap();
        let names = keys.iter().map(|(key, value)| (format!("BFTD_{key}"), value));
        if document.set_from_variables("BFTD_", names).is_ok() {
            let _ = document.read::<Settings>();
        }
        let _ = document.error(&text, "what");
    }

    /// Text that is nearly right finds more than text that is not TOML at all.
    #[test]
    fn no_toml_makes_it_panic(lines in prop::collection::vec(
        prop_oneof![
            ("(name|replica|cores|log|peer|log\\.level|[a-z\"']{1,4})", "(1|-1|1\\.5|\"a\"|\\[1, 2\\]|\\{ a = 1 \\}|2026-11-21|0x1f|true|nan|[\\[\\{\"]{1,3})")
                .prop_map(|(key, value)| format!("{key} = {value}\n")),
            Just("[log]\n".to_owned()),
            Just("[[peer]]\n".to_owned()),
        ], 0..8)) {
        let text = lines.concat();
        if let Err(error) = parse::<Settings>(&text, "x") {
            prop_assert!(!error.what.is_empty() && error.to_string().starts_with('x'));
        }
    }
}
