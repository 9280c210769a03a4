//! `audit report` on logs whose names are attacks on whatever shows them: a browser, a spreadsheet, a
//! terminal. The lines are signed with the audit key, so that the chain is good: the proxy itself
//! would not write some of them, but one with a defect or of another version could.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use xks_proxy::observe::audit::chain::{CODE_BYTES, Chain, key_of};

use super::audit_report::{csv, json_report, look, report, rows};

const KEY: [u8; CODE_BYTES] = [0x5a; CODE_BYTES];

/// A log in the making.
struct Log {
    chain: Chain,
    bytes: Vec<u8>,
}

impl Log {
    fn new() -> Self {
        let mut log = Self { chain: Chain::begin(key_of(&KEY)), bytes: Vec::new() };
        log.event("open", &json!({"previousEnd": "none"}));
        log
    }

    /// Appends a line with these members, which begin with a comma.
    fn line(&mut self, members: &[u8]) {
        let hex = |code: &[u8]| code.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let seq = self.chain.seq();
        let mut line = format!("{{\"seq\":{seq}").into_bytes();
        if seq == 0 {
            line.extend_from_slice(format!(",\"previous\":\"{}\"", hex(&[0; 32])).as_bytes());
        }
        let time = format!(",\"time\":\"2026-11-25T08:{:02}:{:02}.000000Z\"", seq / 60, seq % 60);
        line.extend_from_slice(time.as_bytes());
        line.extend_from_slice(members);
        let code = self.chain.seal(&line);
        self.bytes.extend_from_slice(&line);
        self.bytes.extend_from_slice(format!(",\"mac\":\"{}\"}}\n", hex(&code)).as_bytes());
    }

    fn event(&mut self, event: &str, members: &Value) {
        let event = json!(event);
        let members = members.to_string();
        let members = members.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
        let comma = if members.is_empty() { "" } else { "," };
        self.line(format!(",\"event\":{event}{comma}{members}").as_bytes());
    }

    /// Writes the log and its key to where [`report`] looks for them.
    fn save(&self) -> tempfile::TempDir {
        use std::os::unix::fs::PermissionsExt as _;

        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        fs::write(&key, KEY.map(|byte| format!("{byte:02x}")).concat()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
        fs::create_dir(directory.path().join("audit")).unwrap();
        fs::write(directory.path().join("audit/audit.jsonl"), &self.bytes).unwrap();
        directory
    }
}

/// Names that are something else for a browser, a spreadsheet or a terminal.
fn attacks() -> Vec<String> {
    let attacks = [
        "<script>document.title='owned'</script>",
        "</title></style></table><svg onload=document.title='owned'>",
        "\" onmouseover=\"document.title='owned'\" x=\"",
        "' onfocus='document.title=1' autofocus='",
        "<img src=https://example.com/x onerror=document.title='owned'>",
        "<link rel=stylesheet href=//example.com/x.css>",
        "<meta http-equiv=refresh content=0;url=https://example.com/>",
        "javascript:document.title='owned'",
        "&lt;script&gt;&#x3c;b&#x3e;",
        "--><!--",
        "=cmd|' /C calc'!A0",
        "+1+cmd|' /C calc'!A0",
        "-2+3+cmd|' /C calc'!A0",
        "@SUM(1+1)",
        "\t=1+1",
        "\r=1+1",
        "a\r\n=1+1,=2",
        " =1+1",
        "x;=cmd|' /C calc'!A0",
        "x;\"=1+1\";\"\"@SUM(1)",
        "\",=1+1,\"",
        "\u{ff1d}1+1",
        "\u{feff}=1+1",
        "\u{1b}[2J\u{1b}]0;owned\u{7}",
        "\u{1b}]8;;https://example.com/\u{1b}\\click\u{1b}]8;;\u{1b}\\",
        "\u{9b}31m\u{9d}0;owned\u{9c}",
        "\u{8}\u{8}\u{8}\u{7f}\u{0}",
        "\u{202e}gpj.exe\u{2066}\u{200b}",
        "(others)",
        "-",
        "",
        "arn:aws:iam::123456789012:user/Zo\u{eb}",
    ];
    let long = ["A".repeat(9_000), "\u{1b}<\"".repeat(1_000)];
    attacks.into_iter().map(str::to_owned).chain(long).collect()
}

/// A log in which each name of each line is an attack.
fn hostile() -> Log {
    let mut log = Log::new();
    for attack in attacks() {
        for (status, members) in [
            (200, json!({"awsPrincipalArn": attack, "externalKeyId": "foo", "kmsKeyArn": attack})),
            (403, json!({"reason": attack, "errorName": attack, "externalKeyId": attack})),
            (503, json!({"store": attack, "accessKeyId": attack, "operation": attack})),
            (404, json!({"kmsViaService": attack, "kmsOperation": attack, "token": attack})),
        ] {
            let mut members = members;
            members["status"] = json!(status);
            log.event("call", &members);
        }
        log.event("start", &json!({"version": attack, "settings": attack}));
        log.event("settings", &json!({"outcome": "taken_up", "needsRestart": attack}));
        log.event(&attack, &json!({attack.as_str(): attack}));
    }
    // A name as it is, rather than escaped.
    log.line(
        ",\"event\":\"call\",\"awsPrincipalArn\":\"\u{9b}31m<b>\u{eb}\",\"status\":200".as_bytes(),
    );
    // Not text.
    log.line(b",\"event\":\"call\",\"awsPrincipalArn\":\"\xff\xfe<b>\",\"status\":200");
    log.line(b",\"event\":\"call\",\"externalKeyId\":\"\\ud800\",\"status\":200");
    log.line(b",\"event\":\"call\",\"reason\":\"\x1b[2J\",\"status\":200");
    log
}

/// The figures are right, and names come back as they are, in ASCII alone.
#[test]
fn json_of_attacks() {
    let log = hostile().save();
    let (code, told) = json_report(log.path(), &[]);
    assert_eq!((code, &told["verdict"]), (0, &json!("good")));
    assert_eq!(told["summary"]["linesUnreadable"], 3);
    assert!(told["statements"].to_string().contains("Not counted: 3 lines"), "{told}");
    let attacks = attacks();
    assert_eq!(told["summary"]["calls"], 4 * attacks.len() + 1);
    let mut principals = attacks.clone();
    principals.push("\u{9b}31m<b>\u{eb}".to_owned());
    principals.sort();
    for (table, column, expected) in [
        ("principals", "awsPrincipalArn", &principals),
        ("viaServices", "kmsViaService", &attacks),
        ("credentials", "accessKeyId", &attacks),
    ] {
        let mut expected = expected.clone();
        expected.sort();
        let mut found: Vec<String> = rows(&told, table, &[column])
            .into_iter()
            .filter_map(|row| row[0].as_str().map(str::to_owned))
            .collect();
        found.sort();
        assert_eq!(found, expected, "{table}");
    }
    let (_, out, _) = report(log.path(), &["--format", "json"]);
    assert!(out.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')));
}

/// A terminal shows text, and a long name does not make the other rows long.
#[test]
fn text_of_attacks() {
    let log = hostile().save();
    let (code, out, error) = report(log.path(), &["--rows", "1000"]);
    assert_eq!(code, 0, "{error}");
    assert!(out.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')));
    let long = out.lines().filter(|line| line.len() > 1_500).count();
    assert!(long < 40, "{long}");
    for name in
        ["\\u001b[2J\\u001b]0;owned\\u0007", "\\u202egpj.exe", "\"(others)\"", "user/Zo\\u00eb"]
    {
        assert!(out.contains(name), "{name}");
    }
}

/// No cell begins a formula: neither as RFC 4180 has cells, nor where a semicolon separates them,
/// nor for a program that takes each line end for that of a row.
#[test]
fn spreadsheet_of_attacks() {
    let log = hostile().save();
    let (code, out, error) = report(log.path(), &["--format", "csv"]);
    assert_eq!(code, 0, "{error}");
    assert!(out.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\r' | b'\n')));
    let is_formula =
        |cell: &str| cell.trim_start_matches([' ', '"']).starts_with(['=', '+', '-', '@']);
    let records = csv(&out);
    for record in &records {
        assert_eq!(record.len(), records[0].len(), "{record:?}");
        let formula = record.iter().find(|cell| is_formula(cell));
        assert_eq!(formula, None);
    }
    assert_eq!(records.len(), out.lines().count());
    for cell in out.lines().flat_map(|line| line.split(';')) {
        assert!(!is_formula(cell), "{cell}");
    }
    let cells: Vec<&str> = records.iter().flatten().map(String::as_str).collect();
    for cell in ["'=cmd|' /C calc'!A0", "x;'=cmd|' /C calc'!A0", "\\r=1+1", "\\ufeff=1+1"] {
        assert!(cells.contains(&cell), "{cell}");
    }
}

/// The page has the same elements as that of a harmless log, and a policy by which nothing else would
/// be loaded or run.
#[test]
fn markup_of_attacks() {
    let log = hostile().save();
    let (code, html, error) = report(log.path(), &["--format", "html", "--rows", "1000"]);
    assert_eq!(code, 0, "{error}");
    assert!(html.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')));
    let policy =
        html.find("http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; ").unwrap();
    assert!(policy < html.find("<style>").unwrap() && policy < html.find("<title>").unwrap());
    let policy = html[policy..].split("\">").next().unwrap();
    for wrong in ["unsafe", "http:", "https:", "*", "script-src"] {
        assert!(!policy.contains(wrong), "{policy}");
    }
    let known = [
        "!doctype",
        "html",
        "head",
        "meta",
        "title",
        "link",
        "style",
        "body",
        "header",
        "h1",
        "h2",
        "p",
        "main",
        "section",
        "span",
        "ul",
        "li",
        "nav",
        "a",
        "dl",
        "div",
        "dt",
        "dd",
        "figure",
        "figcaption",
        "i",
        "b",
        "svg",
        "g",
        "line",
        "rect",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "footer",
    ];
    let attributes = [
        "lang",
        "charset",
        "http-equiv",
        "content",
        "name",
        "rel",
        "href",
        "class",
        "id",
        "scope",
        "aria-labelledby",
        "aria-label",
        "aria-hidden",
        "role",
        "data-label",
        "viewBox",
        "preserveAspectRatio",
        "x",
        "y",
        "x1",
        "x2",
        "y1",
        "y2",
        "width",
        "height",
        "fill-opacity",
    ];
    let (before, after) = html.split_once("<style>").unwrap();
    let (style, after) = after.split_once("</style>").unwrap();
    assert!(!style.contains("url(") && !style.contains("@import"));
    for tag in [before, after].into_iter().flat_map(|part| part.split('<').skip(1)) {
        let (tag, text) = tag.split_once('>').unwrap();
        assert!(!text.contains('>') && !text.contains('"'), "{text}");
        let mut parts = tag.split('"');
        let mut names = parts.next().unwrap().split([' ', '=']).filter(|name| !name.is_empty());
        let element = names.next().unwrap().trim_start_matches('/');
        assert!(known.contains(&element), "{tag}");
        // Values are every second part: what is between them are names.
        let outside: Vec<&str> = parts.skip(1).step_by(2).collect();
        for name in names.chain(outside.iter().flat_map(|it| it.split([' ', '=', '/']))) {
            let is_known = name.is_empty() || name == "html" || attributes.contains(&name);
            assert!(is_known, "{name} in {tag}");
        }
    }
}

/// The page in a real browser: nothing runs or is loaded, and no name makes it wider than a screen.
#[test]
fn the_page_of_attacks() {
    let log = hostile().save();
    let text = look(log.path(), "attacks");
    for name in ["<script>document.title='owned'</script>", "--><!--", "\\u202egpj.exe"] {
        assert!(text.contains(name), "{name}: {text}");
    }
}

/// A file that is not an audit log at all is no reason for a report full of zeros.
#[test]
fn other_files() {
    let log = hostile().save();
    let path = log.path().join("audit/audit.jsonl");
    let output = log.path().join("report");
    let run = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        let (code, out, error) = report(log.path(), &["--output", output.to_str().unwrap()]);
        assert!(out.is_empty() && !Path::exists(&output), "{out}");
        (code, error)
    };
    let (code, error) = run(b"{\"time\":\"2026\",\"level\":\"info\"}\nanother log\n");
    assert_eq!(code, 78, "{error}");
    assert!(error.contains("no line of an audit log"), "{error}");
    let (code, error) = run(b"");
    assert_eq!(code, 78, "{error}");
    let (code, error) = run(b"\x1f\x8b\x08\0\0\0\n\n");
    assert_eq!(code, 78, "{error}");
    assert!(error.contains("audit.jsonl: is compressed"), "{error}");
}
