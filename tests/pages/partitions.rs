//! The CloudFormation templates and Terraform modules have no name of one partition alone, and the
//! former map partitions as the table in docs/operations.md does.

use std::fs;

use xks_proxy::partition::PARTITIONS;

use crate::pages::{Page, root};

fn template(name: &str) -> String {
    fs::read_to_string(root().join("packaging/cloudformation").join(name)).unwrap()
}

/// Cells of the row of the table that begins with `beginning`.
fn row(page: &str, beginning: &str) -> Vec<String> {
    let section = page.split("\n## Partitions of AWS\n").nth(1).expect("a section");
    let row = section.lines().find(|line| line.starts_with(&format!("| {beginning}")));
    let row = row.unwrap_or_else(|| panic!("no row {beginning}"));
    row.trim_matches('|').split('|').skip(1).map(|cell| cell.trim().to_owned()).collect()
}

/// The first word of a cell in backticks.
fn name(cell: &str) -> &str {
    cell.split('`').nth(1).unwrap()
}

/// Lines with a DNS suffix, or with the partition of an ARN, outside comments and the mapping.
fn of_one_partition(template: &str) -> Vec<&str> {
    let suspects = ["amazonaws", "arn:aws"];
    let lines = template.lines().filter(|line| !line.trim_start().starts_with('#'));
    let lines = lines.filter(|line| !line.contains("{Prefix: "));
    lines.filter(|line| suspects.iter().any(|it| line.contains(it))).collect()
}

/// Without the lines that describe or check a variable: they have examples of names, and patterns
/// that take those of every partition.
fn without_examples(module: &str) -> String {
    let prose = ["error_message", "description", "condition"];
    let lines = module.lines();
    let lines = lines.filter(|line| !prose.iter().any(|it| line.trim_start().starts_with(it)));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn templates_suit_every_partition() {
    for name in ["template.yaml", "alarms.yaml"] {
        assert_eq!(of_one_partition(&template(name)), Vec::<&str>::new(), "{name}");
    }
    for module in ["endpoint-service", "key-store"] {
        let folder = root().join("packaging/terraform").join(module);
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let texts = files.map(|path| fs::read_to_string(path).unwrap());
        let texts: Vec<String> = texts.map(|text| without_examples(&text)).collect();
        assert!(texts.len() >= 4, "{module}");
        for text in texts {
            assert_eq!(of_one_partition(&text), Vec::<&str>::new(), "{module}");
        }
    }
}

#[test]
fn a_name_of_one_partition_is_found() {
    assert_eq!(of_one_partition("  - !Sub cks.kms.${AWS::Region}.amazonaws.com\n").len(), 1);
    assert_eq!(of_one_partition("  Arn: arn:aws:sns:a:b:c\n# amazonaws.com\n").len(), 1);
}

/// The program knows the partitions of the table, and no others.
#[test]
fn the_program_has_those_of_the_table() {
    let page = Page::read("docs/operations.md").text;
    let partitions = row(&page, "partition, and");
    let suffixes = row(&page, "DNS suffix");
    let clients = row(&page, "KMS's principal at");
    let regions = row(&page, "Regions ");
    assert_eq!(partitions.len(), PARTITIONS.len());
    for (index, known) in PARTITIONS.iter().enumerate() {
        assert_eq!(name(&partitions[index]), known.name);
        assert!(partitions[index].contains(&format!("`arn:{}:`", known.name)));
        assert_eq!(name(&suffixes[index]), known.dns_suffix);
        // Two partitions have one suffix, which the table says once.
        let of_suffix = PARTITIONS.iter().position(|it| it.dns_suffix == known.dns_suffix);
        let client = name(&clients[of_suffix.unwrap()]);
        assert_eq!(client, format!("cks.kms.REGION.{}", known.dns_suffix));
        for region in regions[index].split('`').skip(1).step_by(2) {
            assert_eq!(xks_proxy::partition::known(region), Some(known), "{region}");
        }
    }
}

#[test]
fn the_mapping_is_that_of_the_table() {
    let page = Page::read("docs/operations.md").text;
    let partitions = row(&page, "partition, and");
    let prefixes = row(&page, "name of an endpoint service");
    let suffixes = row(&page, "DNS suffix");
    assert_eq!(partitions.len(), 4, "{partitions:?}");
    let template = template("template.yaml");
    for ((partition, prefix), suffix) in partitions.iter().zip(&prefixes).zip(&suffixes) {
        let (partition, prefix) = (name(partition), name(prefix));
        let line = format!("\n    {partition}: {{Prefix: {prefix}}}\n");
        assert!(template.contains(&line), "no {line}");
        // The prefix is the suffix in reverse.
        let reversed: Vec<&str> = name(suffix).rsplit('.').collect();
        assert_eq!(prefix, format!("{}.vpce", reversed.join(".")));
    }
    assert_eq!(template.matches("{Prefix: ").count(), partitions.len());
}
