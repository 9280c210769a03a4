//! HTTP/1.1 for a server, reduced to the minimum that the probe needs.

use std::io::{self, Read, Write};

/// A request.
pub struct Request {
    pub method: String,
    pub path: String,
    /// Header fields, with names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// Reads the next request; `None` if the client has closed the connection.
    pub fn read(stream: &mut impl Read) -> io::Result<Option<Self>> {
        let mut received = Vec::new();
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 32];
            let mut head = httparse::Request::new(&mut fields);
            if let httparse::Status::Complete(length) =
                head.parse(&received).map_err(io::Error::other)?
            {
                let mut request = Self {
                    method: head.method.unwrap().to_owned(),
                    path: head.path.unwrap().to_owned(),
                    headers: head
                        .headers
                        .iter()
                        .map(|field| {
                            let value = String::from_utf8_lossy(field.value).into_owned();
                            (field.name.to_ascii_lowercase(), value)
                        })
                        .collect(),
                    body: Vec::new(),
                };
                let end = length + request.header("content-length").parse::<usize>().unwrap_or(0);
                if received.len() >= end {
                    request.body = received.split_off(length);
                    return Ok(Some(request));
                }
            }
            let mut piece = [0; 4096];
            match stream.read(&mut piece)? {
                0 => return Ok(None),
                count => received.extend_from_slice(&piece[..count]),
            }
        }
    }
}

/// An answer.
pub struct Answer {
    pub version: &'static str,
    pub status: u16,
    pub content_type: &'static str,
    pub date: Option<String>,
    pub is_last: bool,
    pub body: String,
}

impl Answer {
    pub fn new(status: u16, body: String) -> Self {
        let content_type = "application/json";
        Self { version: "HTTP/1.1", status, content_type, date: None, is_last: false, body }
    }

    pub fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        let Self { version, status, content_type, body, .. } = self;
        let connection = if self.is_last { "close" } else { "keep-alive" };
        let date = self.date.as_ref().map(|date| format!("Date: {date}\r\n")).unwrap_or_default();
        let length = body.len();
        let text = format!(
            "{version} {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
             Connection: {connection}\r\n{date}\r\n{body}"
        );
        stream.write_all(text.as_bytes())?;
        stream.flush()
    }
}
