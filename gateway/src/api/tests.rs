//! The description, and the guard around a served API that has nothing to tell.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use super::answer::Shown;
use super::*;

/// The copy that people and generators read is the one of this code.
#[test]
fn the_kept_description_is_the_one_of_this_code() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let now = description();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &now).expect("written");
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        kept == now,
        "docs/openapi.json differs: run `UPDATE=1 cargo test -p flytrap-gateway kept_description`"
    );
}

#[test]
fn every_operation_tells_its_problems_and_only_signed_ones_write() {
    let described: Value = serde_json::from_str(&description()).expect("JSON");
    assert_eq!(described["openapi"], "3.1.0");
    let paths = described["paths"].as_object().expect("paths");
    assert_eq!(paths.len(), 12);
    for (path, operations) in paths {
        let operations = operations.as_object().expect("operations");
        let (method, statuses) = match names::is_signed(path) {
            true => ("post", ["200", "400", "403", "404", "409", "413", "429", "503"]),
            false => ("get", ["200", "304", "400", "401", "403", "404", "429", "503"]),
        };
        assert_eq!(operations.keys().collect::<Vec<_>>(), [method], "{path}");
        for status in statuses {
            assert!(operations[method]["responses"][status].is_object(), "{path} {status}");
        }
    }
}

/// A table has the fields of the object, no more and no less.
#[test]
fn tables_have_the_columns_that_objects_have() {
    let described: Value = serde_json::from_str(&description()).expect("JSON");
    let fields = |name: &str| -> BTreeSet<String> {
        let properties = &described["components"]["schemas"][name]["properties"];
        properties.as_object().expect("an object").keys().cloned().collect()
    };
    let tables: [(&str, &[&str]); 7] = [
        ("RecordItem", shapes::RecordItem::COLUMNS),
        ("SumItem", shapes::SumItem::COLUMNS),
        ("TopicItem", shapes::TopicItem::COLUMNS),
        ("OfferItem", shapes::OfferItem::COLUMNS),
        ("GrantItem", shapes::GrantItem::COLUMNS),
        ("BanItem", shapes::BanItem::COLUMNS),
        ("AnchorItem", shapes::AnchorItem::COLUMNS),
    ];
    for (name, columns) in tables {
        let columns: BTreeSet<String> = columns.iter().map(ToString::to_string).collect();
        assert_eq!(columns, fields(name), "{name}");
    }
}
