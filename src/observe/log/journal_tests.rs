#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

const TIME: &str = "2026-11-25T08:16:31.123456Z";

/// Takes some bytes at a time, and fails at the times that it is told.
struct Slow {
    taken: Vec<u8>,
    errors: Vec<(usize, ErrorKind)>,
}

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some((_, kind)) = self.errors.pop_if(|(at, _)| self.taken.len() >= *at) {
            return Err(kind.into());
        }
        let count = bytes.len().min(7);
        self.taken.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Priorities, partial writes, and an error after which the rest begins on a new line.
#[test]
fn prefixes() {
    let line = |level: &str| format!("{TIME} {level} a message\n");
    let lines = ["INFO", "WARN", "ERROR", "DEBUG"].map(line);
    let all = lines.concat();
    let expected = ["<6>", "<4>", "<3>", "<7>"].iter().zip(&lines);
    let expected: String = expected.map(|(prefix, line)| format!("{prefix}{line}")).collect();
    let errors = vec![(30, ErrorKind::WouldBlock), (10, ErrorKind::Interrupted)];
    let mut output = Prefixed::new(Slow { taken: Vec::new(), errors });
    let mut written = 0;
    while written < all.len() {
        written += output.write(&all.as_bytes()[written..]).unwrap_or(0);
    }
    assert_eq!(String::from_utf8_lossy(&output.to.taken), expected);

    let mut output =
        Prefixed::new(Slow { taken: Vec::new(), errors: vec![(10, ErrorKind::StorageFull)] });
    output.write(lines[0].as_bytes()).unwrap_err();
    assert_eq!(output.write(lines[1].as_bytes()).unwrap(), lines[1].len());
    let text = String::from_utf8(output.to.taken).unwrap();
    assert!(text.ends_with(&format!("\n<4>{}", lines[1])), "{text}");
}

/// Fields as the journal's protocol has them: `NAME=value` and a line end each.
#[test]
fn fields() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let journal = UnixDatagram::bind(&path).unwrap();
    let mut output = Fielded::new(&path).unwrap();
    let call = format!(
        "{TIME} WARN call=decrypt kmsRequestId=4112 kmsViaService=\"a\\nMESSAGE=forged\"\n"
    );
    let event = format!("{TIME} INFO up token=a target=xks_proxy::x\n");
    let lines = call.clone() + &event;
    assert_eq!(output.write(lines.as_bytes()).unwrap(), call.len());
    assert_eq!(output.write(event.as_bytes()).unwrap(), event.len());
    let receive = || {
        let mut buffer = [0; 2000];
        let count = journal.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    };
    assert_eq!(
        receive(),
        format!(
            "PRIORITY=4\nSYSLOG_IDENTIFIER=xks-proxy\n\
             MESSAGE=call=decrypt kmsRequestId=4112 kmsViaService=\"a\\nMESSAGE=forged\"\n\
             SYSLOG_TIMESTAMP={TIME}\nXKS_CALL=decrypt\nXKS_KMS_REQUEST_ID=4112\n\
             XKS_KMS_VIA_SERVICE=a\\nMESSAGE=forged\n"
        )
    );
    assert_eq!(
        receive(),
        format!(
            "PRIORITY=6\nSYSLOG_IDENTIFIER=xks-proxy\nMESSAGE=up token=a target=xks_proxy::x\n\
             SYSLOG_TIMESTAMP={TIME}\n"
        )
    );
    drop(journal);
    output.write(event.as_bytes()).unwrap_err();
}
