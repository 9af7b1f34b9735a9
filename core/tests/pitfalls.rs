//! Holds `docs/pitfalls.md` against the tree: every id has its row, every test it names exists, and every test whose name
//! begins with an id is named.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// How many rules each letter has.
const RULES: &[(&str, u32)] = &[
    ("Z", 13),
    ("S", 12),
    ("V", 16),
    ("K", 9),
    ("C", 20),
    ("R", 3),
    ("PF", 7),
    ("X", 8),
    ("A", 2),
    ("D", 24),
    ("T", 5),
    ("EP", 4),
    ("MEM", 2),
    ("O", 4),
    ("Y", 3),
    ("F", 5),
];

#[test]
fn every_rule_has_its_row_and_every_row_its_tests() {
    let ids: BTreeSet<String> =
        RULES.iter().flat_map(|(letter, count)| (1..=*count).map(move |n| format!("{letter}{n}"))).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let rows = rows(&fs::read_to_string(root.join("docs/pitfalls.md")).expect("docs/pitfalls.md is there"));
    assert_eq!(rows.keys().cloned().collect::<BTreeSet<_>>(), ids, "one row for each rule");
    let in_tree = tests_in_tree(&root, &ids);
    for (id, named) in &rows {
        let found = in_tree.get(id).cloned().unwrap_or_default();
        assert_eq!(
            named, &found,
            "the row of {id} (left) names the tests in the tree (right), or `open` if there is none"
        );
    }
}

/// Of each id the tests that its row names.
fn rows(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| id ")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [id, rule, tests] = cells[..] else { panic!("a row has three cells: {line}") };
        assert!(rule.len() > 10, "the row of {id} tells its rule");
        let tests: BTreeSet<_> = match tests {
            "open" => BTreeSet::new(),
            tests => tests.split(", ").map(|test| test.trim_matches('`').to_string()).collect(),
        };
        assert!(rows.insert(id.to_string(), tests).is_none(), "one row for {id}");
    }
    rows
}

/// Of each id the functions of the tree whose names begin with it; a name may begin with two ids.
fn tests_in_tree(root: &Path, ids: &BTreeSet<String>) -> BTreeMap<String, BTreeSet<String>> {
    let mut tests: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in rust_files(root) {
        let text = fs::read_to_string(&file).expect("a source file is readable");
        for name in text.lines().filter_map(|line| line.trim_start().strip_prefix("fn ")) {
            let name = name.split(['(', '<']).next().unwrap_or_default();
            for part in name.split('_').take_while(|part| ids.contains(&part.to_uppercase())) {
                tests.entry(part.to_uppercase()).or_default().insert(name.to_string());
            }
        }
    }
    tests
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of the tree is readable") {
        let path = entry.expect("an entry is readable").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files.extend(rust_files(&path));
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    files
}
