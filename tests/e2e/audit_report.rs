//! `audit report`: what it says about real logs, tampered ones among them, in each format.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::audit::{audited, encrypt, end, files, lines};
use crate::common::token::FOREIGN;
use crate::common::{Proxy, Setup, Store, tools, xks};

/// Runs `audit report` on all files of the log. Returns its exit code, output and error.
pub fn report(directory: &Path, more: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_xks-proxy"))
        .args(["audit", "report", "--key-file"])
        .arg(directory.join("key"))
        .args(more)
        .args(files(directory))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[track_caller]
pub fn json_report(directory: &Path, more: &[&str]) -> (i32, Value) {
    let (code, out, error) = report(directory, &[&["--format", "json"], more].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|_| panic!("{code} {out} {error}")))
}

/// Returns the values of these columns.
pub fn rows(report: &Value, table: &str, columns: &[&str]) -> Vec<Value> {
    let rows = report[table]["rows"].as_array().unwrap();
    rows.iter().map(|row| columns.iter().map(|column| row[*column].clone()).collect()).collect()
}

/// A log of two processes with calls of all outcomes, and two reloads.
fn eventful() -> Proxy {
    let mut proxy = audited(Setup::new()).start();
    let client = proxy.client();
    let encrypted = encrypt(&client);
    encrypt(&client);
    client.call("keys/foo/decrypt", &xks::decrypt(&encrypted, Some(b"the AAD"))).ok();
    let mut by_bob = xks::metadata("DescribeKey");
    by_bob["requestMetadata"]["awsPrincipalArn"] = json!("arn:aws:iam::123456789012:user/Bob");
    by_bob["requestMetadata"].as_object_mut().unwrap().remove("kmsViaService");
    client.call("keys/foo/metadata", &by_bob).ok();
    client.call("keys/none/metadata", &by_bob).assert_error(404, "KeyNotFoundException");
    client.call("health", &xks::health()).ok();
    proxy
        .stranger()
        .call("keys/foo/encrypt", &xks::encrypt(b"no", None))
        .assert_error(401, "AuthenticationFailedException");
    proxy.signal("HUP");
    proxy.wait_for("the reload", |proxy| {
        lines(proxy.directory()).iter().any(|line| line["outcome"] == "taken_up")
    });
    let settings = proxy.directory().join("settings.toml");
    let good = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, "[server]\nport = \"none\"\n").unwrap();
    proxy.signal("HUP");
    proxy.wait_for("the refused reload", |proxy| {
        lines(proxy.directory()).iter().any(|line| line["outcome"] == "refused")
    });
    fs::write(&settings, good).unwrap();
    end(&mut proxy);
    proxy.start_again();
    encrypt(&proxy.client());
    end(&mut proxy);
    proxy
}

/// Each figure is that of the calls made.
#[test]
fn who_used_which_key() {
    let proxy = eventful();
    let directory = proxy.directory();
    let state = directory.join("audit/audit.state");
    let (code, report) = json_report(directory, &["--state", state.to_str().unwrap()]);
    assert_eq!((code, &report["verdict"]), (0, &json!("good")));
    let all = lines(directory);
    assert_eq!(report["summary"]["goodLines"], all.len());
    let counts = ["calls", "served", "refused", "encryptions", "decryptions"];
    let of = |table: &str, names: &[&str]| rows(&report, table, &[names, &counts].concat());
    let store = Store::first();
    assert_eq!(report["summary"]["calls"], 8);
    assert_eq!(
        of("keys", &["store", "externalKeyId"]),
        [json!([store.prefix, "foo", 6, 5, 1, 3, 1]), json!([store.prefix, "none", 1, 0, 1, 0, 0])]
    );
    let [alice, bob] = ["Alice", "Bob"].map(|it| format!("arn:aws:iam::123456789012:user/{it}"));
    assert_eq!(
        of("principals", &["awsPrincipalArn"]),
        [json!([alice, 4, 4, 0, 3, 1]), json!([null, 2, 1, 1, 0, 0]), json!([bob, 2, 1, 1, 0, 0])]
    );
    assert_eq!(
        of("access", &["awsPrincipalArn", "externalKeyId"]),
        [
            json!([alice, "foo", 4, 4, 0, 3, 1]),
            json!([null, "foo", 1, 0, 1, 0, 0]),
            json!([bob, "foo", 1, 1, 0, 0, 0]),
            json!([bob, "none", 1, 0, 1, 0, 0])
        ]
    );
    assert_eq!(
        of("viaServices", &["kmsViaService"]),
        [json!([null, 4, 2, 2, 0, 0]), json!(["ebs", 4, 4, 0, 3, 1])]
    );
    assert_eq!(
        rows(
            &report,
            "refusals",
            &["errorName", "operation", "store", "externalKeyId", "awsPrincipalArn"]
        ),
        [
            json!(["AuthenticationFailedException", "encrypt", store.prefix, "foo", null]),
            json!(["KeyNotFoundException", "metadata", store.prefix, "none", bob])
        ]
    );
    for row in report["refusals"]["rows"].as_array().unwrap() {
        assert!(row["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{row}");
    }
    // First and last use are the times of the lines.
    let times: Vec<&Value> = all
        .iter()
        .filter(|line| line["awsPrincipalArn"] == alice.as_str())
        .map(|line| &line["time"])
        .collect();
    let first = &report["principals"]["rows"][0];
    assert_eq!((&first["firstUse"], &first["lastUse"]), (times[0], times[3]));
    let kinds = |table| rows(&report, table, &["kind"]).concat();
    assert_eq!(
        kinds("changes"),
        ["new chain", "start", "reload", "reload", "stop", "start", "stop"]
    );
    assert_eq!(kinds("interruptions"), ["restart"]);
    assert_eq!(
        report["timeline"]["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["calls"].as_u64().unwrap())
            .sum::<u64>(),
        8
    );
}

trait Concat {
    fn concat(self) -> Vec<Value>;
}

impl Concat for Vec<Value> {
    /// Joins arrays.
    fn concat(self) -> Vec<Value> {
        self.into_iter().flat_map(|row| row.as_array().unwrap().clone()).collect()
    }
}

/// The first moment belongs to the period, the end does not; a day belongs to it as a whole. All of
/// the log is verified.
#[test]
fn a_period() {
    let proxy = eventful();
    let directory = proxy.directory();
    let all = lines(directory);
    let calls: Vec<&Value> = all.iter().filter(|line| line["event"] == "call").collect();
    let time = |index: usize| calls[index]["time"].as_str().unwrap();
    let summary = |more: &[&str]| {
        let (code, report) = json_report(directory, more);
        assert_eq!((code, &report["summary"]["goodLines"]), (0, &json!(all.len())));
        report["summary"]["calls"].as_u64().unwrap()
    };
    assert_eq!(summary(&["--from", time(1), "--to", time(4)]), 3);
    assert_eq!(summary(&["--from", time(7)]), 1);
    assert_eq!(summary(&["--to", time(7)]), 7);
    let day = time(0).split('T').next().unwrap();
    let last_day = time(7).split('T').next().unwrap();
    assert_eq!(summary(&["--from", day, "--to", last_day]), 8);
    assert_eq!(summary(&["--to", "2001-01-01"]), 0);
    // Where the files do not cover the period, the report says so.
    let remarks = |more: &[&str]| {
        let (_, told) = json_report(directory, more);
        let statements = told["statements"].to_string();
        (statements.contains("These files begin at"), statements.contains("These files end at"))
    };
    assert_eq!(remarks(&[]), (false, false));
    assert_eq!(remarks(&["--from", "2001-01-01", "--to", time(4)]), (true, false));
    assert_eq!(remarks(&["--from", time(1), "--to", "2999-01-01"]), (false, true));
    let (code, _, error) = report(directory, &["--from", time(1), "--to", time(1)]);
    assert_eq!(code, 2, "{error}");
    let (code, _, error) = report(directory, &["--from", "yesterday"]);
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("RFC 3339"), "{error}");
}

/// A report on a tampered log says so first, in each format, counts only the lines that are as the
/// proxy wrote them, and exits with 1.
#[test]
fn a_tampered_log() {
    let proxy = eventful();
    let directory = proxy.directory();
    let path = files(directory).remove(0);
    let good = fs::read_to_string(&path).unwrap();
    let changed = good.replacen("user/Bob", "user/Eve", 1);
    let without: String =
        good.split_inclusive('\n').filter(|line| !line.starts_with("{\"seq\":3,")).collect();
    for (text, finding, calls) in [
        (changed, "the code is wrong: the line was changed", 7),
        // Whether the line after a missing one is unchanged cannot be known.
        (without, "line number 3 is missing before this line", 6),
    ] {
        fs::write(&path, text).unwrap();
        let (code, told) = json_report(directory, &[]);
        assert_eq!((code, &told["verdict"]), (1, &json!("tampered")));
        assert_eq!(rows(&told, "findings", &["detail"]).concat(), [finding]);
        assert_eq!(told["summary"]["calls"], calls);
        assert!(!told.to_string().contains("Eve"));
        for (format, at_top) in [
            ("text", "\nTAMPERED: the log is not what the proxy wrote.\n"),
            ("csv", "summary,row,verdict,tampered,"),
            ("html", " TAMPERED: the log is not what the proxy wrote.</h2>"),
        ] {
            let (code, out, error) = report(directory, &["--format", format]);
            assert_eq!(code, 1, "{error}");
            assert!(error.contains("1 findings"), "{error}");
            assert!(out.contains(at_top) && out.contains(finding), "{out}");
            if format == "text" {
                assert!(out.find(at_top).unwrap() < 60, "{out}");
            }
        }
    }
    // The end is missing, which only the state can tell.
    fs::write(&path, good.split_inclusive('\n').take(9).collect::<String>()).unwrap();
    let state = directory.join("audit/audit.state");
    assert_eq!(json_report(directory, &[]).0, 0);
    assert_eq!(json_report(directory, &["--state", state.to_str().unwrap()]).0, 1);
}

/// Without the right key there is no report. An existing file is never overwritten.
#[test]
fn no_report() {
    let proxy = eventful();
    let directory = proxy.directory();
    let output = directory.join("report.csv");
    let arguments = ["--format", "csv", "--output", output.to_str().unwrap()];
    let key = directory.join("key");
    let right = fs::read_to_string(&key).unwrap();
    let set_key = |text: &str| {
        fs::remove_file(&key).unwrap();
        fs::write(&key, text).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
    };
    set_key(&"0".repeat(64));
    // Each line is a finding, unless the log names its chain.
    let (code, out, error) = report(directory, &arguments);
    assert_ne!(code, 0);
    assert!(out.is_empty() && error.contains("it is the wrong key"), "{error}");
    assert!(!output.exists());

    set_key(&right);
    let (code, out, error) = report(directory, &arguments);
    assert_eq!((code, out.as_str(), error.as_str()), (0, "", ""));
    let written = fs::read_to_string(&output).unwrap();
    assert_eq!(fs::metadata(&output).unwrap().permissions().mode() & 0o7027, 0);
    let (code, _, error) = report(directory, &arguments);
    assert_eq!(code, 69, "{error}");
    assert!(error.contains("exists already"), "{error}");
    assert_eq!(fs::read_to_string(&output).unwrap(), written);
    // The same log has the same report.
    assert_eq!(report(directory, &["--format", "csv"]).1, written);
}

/// The HSM vouches for the log, or the report says that it does not.
#[test]
fn by_the_hsm() {
    let mut proxy = audited(Setup::new().set("audit.hsm_key", FOREIGN.label)).start();
    encrypt(&proxy.client());
    proxy.wait_for("the first checkpoint", |proxy| {
        lines(proxy.directory()).iter().any(|line| line["event"] == "checkpoint")
    });
    end(&mut proxy);
    let directory = proxy.directory();
    let path = files(directory).remove(0);
    let run = |path: &Path| {
        let output = directory.join("report.json");
        let arguments = ["audit", "report", "--hsm", "--format", "json", "--output"];
        let paths = [output.to_str().unwrap(), path.to_str().unwrap()];
        let (code, said) = proxy.run(&[&arguments[..], &paths].concat());
        let text = fs::read_to_string(&output).unwrap_or_else(|_| panic!("{code:?} {said}"));
        fs::remove_file(&output).unwrap();
        (code.unwrap(), serde_json::from_str::<Value>(&text).unwrap())
    };
    let (code, told) = run(&path);
    assert_eq!((code, &told["verdict"]), (0, &json!("good")));
    assert!(told["statements"].to_string().contains("The HSM vouches for all before number"));

    let good = fs::read_to_string(&path).unwrap();
    let before: Vec<&str> =
        good.split_inclusive('\n').take_while(|line| !line.contains("\"checkpoint\"")).collect();
    fs::write(&path, before.concat()).unwrap();
    let (code, told) = run(&path);
    assert_eq!((code, &told["verdict"]), (78, &json!("unverified")));
    assert!(told["statements"].to_string().contains("there is no checkpoint"));
}

/// A log whose names try to be a formula, markup, a script, a control sequence, or text in another
/// direction. Callers choose these names.
fn hostile() -> (Proxy, Vec<&'static str>) {
    let mut proxy = audited(Setup::new()).start();
    let client = proxy.client();
    let names = vec![
        "=HYPERLINK(\"https://example.com/\"&A1)",
        "@SUM(1+1)*cmd|' /C calc'!A0",
        "</td></table><script>document.title = 'owned'</script>",
        "\"><img src=https://example.com/x onerror=\"document.title='owned'\">",
        "<!--",
        "]]></style>",
        "&lt;b&gt; &#x3c;",
        "a,b;c\r\nnext,line",
        "\u{1b}]0;owned\u{7}\u{1b}[2J",
        "\u{202e}gpj.exe",
        "\u{9b}31m",
        "é",
        "\u{0}",
    ];
    for name in &names {
        let mut body = xks::encrypt(b"plaintext", None);
        body["requestMetadata"]["awsPrincipalArn"] = json!(name);
        body["requestMetadata"]["kmsViaService"] = json!(name);
        body["requestMetadata"]["kmsOperation"] = json!(name);
        client.post("keys/foo/encrypt", body.to_string().as_bytes());
    }
    end(&mut proxy);
    (proxy, names)
}

/// Names stay text in CSV, JSON and text, whatever they are.
#[test]
fn hostile_names() {
    let (proxy, names) = hostile();
    let directory = proxy.directory();
    let logged: Vec<Value> = lines(directory)
        .into_iter()
        .filter_map(|line| line.get("awsPrincipalArn").cloned())
        .collect();
    assert!(logged.len() >= 10, "{logged:?} of {names:?}");
    let (_, told) = json_report(directory, &[]);
    let mut found = rows(&told, "principals", &["awsPrincipalArn"]).concat();
    found.retain(|name| !name.is_null());
    let sorted = |mut names: Vec<Value>| {
        names.sort_by_key(Value::to_string);
        names
    };
    assert_eq!(sorted(found), sorted(logged));

    let (_, out, _) = report(directory, &[]);
    assert!(out.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')), "{out:?}");
    let (_, out, _) = report(directory, &["--format", "csv"]);
    let records = csv(&out);
    for record in &records {
        assert_eq!(record.len(), records[0].len(), "{record:?}");
        for cell in record {
            assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']), "{cell:?}");
        }
    }
    assert!(records.iter().flatten().any(|cell| cell.starts_with("'=HYPERLINK(\"https")));
}

/// Parses CSV as RFC 4180 has it.
pub fn csv(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut cell) = (Vec::new(), Vec::new(), String::new());
    let (mut is_quoted, mut letters) = (false, text.chars().peekable());
    while let Some(letter) = letters.next() {
        match letter {
            '"' if is_quoted && letters.peek() == Some(&'"') => cell.extend(letters.next()),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => record.push(std::mem::take(&mut cell)),
            '\r' if !is_quoted => {
                assert_eq!(letters.next(), Some('\n'));
                record.push(std::mem::take(&mut cell));
                records.push(std::mem::take(&mut record));
            }
            letter => cell.push(letter),
        }
    }
    assert!(cell.is_empty() && record.is_empty() && !is_quoted);
    records
}

/// The page in a real browser, which fails on anything that could run or load something, a row that
/// is not whole, and a page wider than the screen. Returns the page's text.
pub fn look(directory: &Path, name: &str) -> String {
    let page = directory.join("report.html");
    let (_, _, error) =
        report(directory, &["--format", "html", "--output", page.to_str().unwrap()]);
    assert!(page.exists(), "{error}");
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.is_ascii(), "{html}");
    let pictures: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join("audit-report").join(name);
    fs::create_dir_all(&pictures).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/audit-report/look.py");
    let output = tools::run(
        Command::new(script).arg(&page).arg(&pictures),
        "the test needs Python 3 and Chromium:\n  Debian, Ubuntu: apt-get install chromium\n  \
         Amazon Linux, Fedora: dnf install chromium",
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_page() {
    let proxy = eventful();
    let text = look(proxy.directory(), "eventful");
    let html = fs::read_to_string(proxy.directory().join("report.html")).unwrap();
    assert!(!html.contains("://"), "{html}");
    for part in [
        "The log is what the proxy wrote.",
        "arn:aws:iam::123456789012:user/Bob",
        "KeyNotFoundException",
        "the settings were taken up",
        "restart",
        "Calls by hour of the week",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// Names from a log are shown, and nothing else is done with them.
#[test]
fn the_page_of_a_hostile_log() {
    let (proxy, names) = hostile();
    let directory = proxy.directory();
    let path = files(directory).remove(0);
    // Page and finding of a tampered log have the file's name, too.
    let moved = path.with_file_name("audit-<b onclick=x>\u{202e}&.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&moved, text + "rubbish\n").unwrap();
    fs::remove_file(&path).unwrap();
    let text = look(directory, "hostile");
    for name in [names[2], names[4], "audit-<b onclick=x>\\u202e&.jsonl", "\\u202egpj.exe"] {
        assert!(text.contains(name), "{name}: {text}");
    }
}
