//! Kills under load on real processes: what is told of them, and that nothing acknowledged is lost or doubled.

mod support;

use bft_server::Io;
use serde_json::Value;
use support::{assert_nothing_left, bench_over, last_line, number};

fn assert_told(line: &Value, who: &str) {
    assert_eq!((&line["who"], &line["times"]), (&who.into(), &1.into()), "{line}");
    for field in ["first_commit_ms", "gap_before_ms", "gap_after_ms", "caught_up_ms"] {
        let told = &line[field];
        assert!(number(&told["median"]) > 0.0 && told["median"] == told["worst"], "{field}: {line}");
    }
    assert!(number(&line["acknowledged"]) > 0.0, "{line}");
    assert_eq!(line["acknowledged"], line["counted"], "{line}");
    assert_eq!(line["acknowledged"], line["submitted"], "{line}");
}

#[test]
fn v12_a_primary_and_a_backup_killed_under_load_cost_no_acknowledged_addition() {
    for (io, who) in [(Io::Uring, "primary"), (Io::Uring, "backup"), (Io::Epoll, "primary"), (Io::Epoll, "backup")] {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["kills", "--who", who, "--times", "1", "--rate", "200", "--output", "json"];
        assert_told(&last_line(&bench_over(io, folder.path(), &arguments).output().unwrap()), who);
        assert_nothing_left(folder.path());
    }
}
