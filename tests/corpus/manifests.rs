//! Hostile manifests, each named by its row in the list of threats (P: a malicious publisher), and harmless ones beside
//! them that a check too strict would refuse.
//!
//! They are written by hand here, byte by byte: what must be refused can't be made with the type that refuses it.

use shoal_protocol::id::to_hex;

/// One manifest.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// Row and what is special, for people.
    pub(crate) name: String,
    /// As it comes in.
    pub(crate) bytes: Vec<u8>,
    /// Whether it is a manifest.
    pub(crate) good: bool,
}

/// An entry as its bytes, right or wrong.
#[derive(Debug, Clone)]
struct Raw {
    tag: u8,
    path: Vec<u8>,
    size: u64,
    target: Vec<u8>,
}

const ROOT: [u8; 32] = [7; 32];

fn file(path: &[u8], size: u64) -> Raw {
    Raw { tag: 0, path: path.to_vec(), size, target: Vec::new() }
}

fn dir(path: &[u8]) -> Raw {
    Raw { tag: 2, ..file(path, 0) }
}

fn link(path: &[u8], target: &[u8]) -> Raw {
    Raw { tag: 3, target: target.to_vec(), ..file(path, 0) }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn head(shape: u8, log: u8, count: u64) -> Vec<u8> {
    let mut out = b"\x89shoalm\x01".to_vec();
    out.extend([shape, log]);
    varint(&mut out, count);
    out
}

fn binary(shape: u8, log: u8, entries: &[Raw], hints: &str) -> Vec<u8> {
    let mut out = head(shape, log, entries.len() as u64);
    for entry in entries {
        out.push(entry.tag);
        text(&mut out, &entry.path);
        match entry.tag {
            0 | 1 => {
                varint(&mut out, entry.size);
                if entry.size > 0 {
                    out.extend(ROOT);
                }
            }
            3 => text(&mut out, &entry.target),
            _ => {}
        }
    }
    out.extend(hints.as_bytes());
    out
}

/// `None` where a path is no text.
fn json(shape: u8, log: u8, entries: &[Raw], hints: &str) -> Option<Vec<u8>> {
    let quote = |bytes: &[u8]| Some(serde_json::Value::from(std::str::from_utf8(bytes).ok()?).to_string());
    let rows: Option<Vec<String>> = entries
        .iter()
        .map(|entry| {
            let path = if shape == 1 { format!("\"path\":{},", quote(&entry.path)?) } else { String::new() };
            Some(match entry.tag {
                2 => format!("{{{path}\"kind\":\"dir\"}}"),
                3 => format!("{{{path}\"kind\":\"link\",\"target\":{}}}", quote(&entry.target)?),
                _ if entry.size == 0 => format!("{{{path}\"kind\":\"file\",\"size\":0}}"),
                _ => format!("{{{path}\"kind\":\"file\",\"size\":{},\"blake3\":\"{}\"}}", entry.size, to_hex(&ROOT)),
            })
        })
        .collect();
    let kind = if shape == 1 { "tree" } else { "file" };
    let hints = if hints.is_empty() { String::new() } else { format!("\"hints\":{hints},") };
    let size = 1_u128 << log.min(100);
    let rows = rows?.join(",");
    Some(format!("{{\"shoal\":1,\"kind\":\"{kind}\",\"piece_size\":{size},{hints}\"entries\":[{rows}]}}").into_bytes())
}

#[derive(Default)]
struct Table(Vec<Case>);

impl Table {
    fn one(&mut self, name: impl Into<String>, good: bool, bytes: Vec<u8>) {
        self.0.push(Case { name: name.into(), bytes, good });
    }

    /// In both spellings.
    fn both(&mut self, name: &str, good: bool, shape: u8, log: u8, entries: &[Raw], hints: &str) {
        self.one(format!("{name}, binary"), good, binary(shape, log, entries, hints));
        if let Some(bytes) = json(shape, log, entries, hints) {
            self.one(format!("{name}, JSON"), good, bytes);
        }
    }

    fn tree(&mut self, name: &str, good: bool, entries: &[Raw]) {
        self.both(name, good, 1, 16, entries, "");
    }

    /// As everything that a name can be.
    fn name(&mut self, row: &str, good: bool, name: &[u8]) {
        let shown: String = name.escape_ascii().to_string().chars().take(40).collect();
        let below = [name, b"/f"].concat();
        self.tree(&format!("{row} file {shown}"), good, &[file(name, 5)]);
        self.tree(&format!("{row} directory {shown}"), good, &[file(&below, 5)]);
        self.tree(&format!("{row} empty directory {shown}"), good, &[dir(name)]);
        self.tree(&format!("{row} link {shown}"), good, &[link(name, b"x")]);
        if let Ok(text) = std::str::from_utf8(name) {
            let hints = serde_json::json!({ "name": text }).to_string();
            // A hint is one component, whatever a path may be.
            self.both(&format!("{row} hinted name {shown}"), good, 0, 16, &[file(b"", 5)], &hints);
        }
    }
}

/// Names that lead elsewhere, or nowhere.
const ESCAPES: &[&str] = &[
    "",
    "/",
    "//",
    "///",
    ".",
    "..",
    "./",
    "../",
    "/x",
    "//x",
    "///x",
    "./x",
    "../x",
    "x/",
    "x//",
    "x//y",
    "x/.",
    "x/..",
    "x/./y",
    "x/../y",
    "x/../../y",
    "a/../../x",
    "a/b/../../../x",
    "../../x",
    "../../../../../../etc/passwd",
    "/etc/passwd",
    "/tmp/shoal-corpus-escape",
    "x/../",
    "./.",
    "./..",
    "../.",
    "../..",
    "..//..",
    ".//x",
    "x/./",
    "x/.//",
    "/.",
    "/..",
    "/./x",
    "/../x",
    "//../x",
    "..//x",
    "...//x",
    " /../x",
    "\\/../x",
    "x/../.ssh/authorized_keys",
    "../.bashrc",
    "/proc/self/environ",
    "/dev/null",
    "a/../..",
    "a/b/../..",
    "a/b/c/../../../..",
    "../a/../b",
    "x/..//..",
    "./../x",
    ".//..//x",
    "a/./../b",
    "a//../b",
    "~/../x",
    "C:/../x",
];

/// Code points that hide, reorder or end what a person or a system reads.
fn deceptive() -> impl Iterator<Item = char> {
    let ranges = [0..=0x1f_u32, 0x7f..=0x9f, 0x61c..=0x61c, 0x200e..=0x200f, 0x2028..=0x202e, 0x2066..=0x2069];
    ranges.into_iter().flatten().filter_map(char::from_u32)
}

/// Edges of sizes.
fn edges() -> Vec<u64> {
    let mut out = vec![0, 1, u64::MAX - 1, u64::MAX];
    for bits in [16, 24, 31, 32, 38, 46, 53, 62, 63] {
        out.extend([(1 << bits) - 1, 1 << bits, (1 << bits) + 1]);
    }
    out
}

fn names(table: &mut Table) {
    for name in ESCAPES {
        table.name("P1", false, name.as_bytes());
    }
    for c in deceptive() {
        for name in [format!("{c}"), format!("{c}x"), format!("x{c}y"), format!("x{c}")] {
            table.name("P3", false, name.as_bytes());
        }
    }
    for bytes in [
        &b"\xff"[..],
        b"x\xff",
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"x\xe2\x82",
        b"\x80",
    ] {
        table.name("P3 not UTF-8", false, bytes);
    }
    for name in [
        "a\\b",
        "..\\x",
        "\\\\?\\C:\\x",
        "C:",
        "C:x",
        "a:stream",
        "CON",
        "nul.txt",
        "COM¹",
        "LPT0",
        "aux.c",
        "x.",
        "x ",
        " ",
        "A~1",
        "ſ",
        "e\u{301}",
        "\u{e9}",
        "...",
        "....",
        ".x",
        "-rf",
        "~",
        "$(x)",
        "`x`",
        "%n",
        "*",
        "?",
        "\"",
        "'",
        ".ssh",
        ".bashrc",
        "日本語",
        "🦀",
        "\u{fffd}",
        "\u{200b}",
        "\u{feff}x",
    ] {
        table.name("P5 only some systems mind", true, name.as_bytes());
    }
    table.name("3.1 component of 255", true, "x".repeat(255).as_bytes());
    table.name("3.1 component of 256", false, "x".repeat(256).as_bytes());
    let deep = |n: usize| vec!["d"; n].join("/").into_bytes();
    table.tree("3.1 depth 64", true, &[file(&deep(64), 5)]);
    table.tree("3.1 depth 65", false, &[file(&deep(65), 5)]);
    let long = |n: usize| {
        let mut path = vec!["x".repeat(255); 4].join("/").into_bytes();
        path.resize(n, b'y');
        path
    };
    table.tree("3.1 path of 1,023", true, &[file(&long(1_023), 5)]);
    table.tree("3.1 path of 1,025", false, &[file(&[&long(1_022)[..], b"/zz"].concat(), 5)]);
    for count in [1_u64 << 20, 1 << 32, u64::MAX] {
        let mut bytes = head(1, 16, 1);
        bytes.push(0);
        varint(&mut bytes, count);
        table.one(format!("R2 a path of {count} bytes that never come"), false, bytes);
    }
}

fn structure(table: &mut Table) {
    table.tree("P4 link to a neighbour", true, &[link(b"a", b"b")]);
    table.tree("P4 link up as deep as it lies", true, &[link(b"d/e/l", b"../../x")]);
    table.tree("P4 link to the root", true, &[link(b"l", b".")]);
    for (path, target) in [
        ("a", ".."),
        ("a", "../b"),
        ("d/a", "../../b"),
        ("a", "/etc"),
        ("a", "/"),
        ("a", ""),
        ("a", "x/../../b"),
        ("d/a", "k/../b"),
        ("a", "b//c"),
        ("a", "b/"),
        ("a", "b\0"),
        ("a", "\u{1b}[1m"),
        ("d/e/a", "../x/../../y"),
        ("a", "./.."),
        ("a", "./../b"),
        ("d/a", ".././../b"),
        ("a", "\u{202e}b"),
    ] {
        table.tree(&format!("P4 link {path} to {target:?}"), false, &[link(path.as_bytes(), target.as_bytes())]);
    }
    table.tree("P4 file below a link", false, &[link(b"d", b"x"), file(b"d/passwd", 5)]);
    table.tree("P4 link below a link", false, &[link(b"d", b"x"), link(b"d/e", b"y")]);
    table.tree("P4 file below a file", false, &[file(b"d", 5), file(b"d/x", 5)]);
    table.tree("P4 file below an empty directory", false, &[dir(b"d"), file(b"d/x", 5)]);
    table.tree("P4 deep below a link", false, &[link(b"d", b"x"), file(b"d-x", 1), file(b"d/e/f/g", 5)]);
    table.tree("P5 the same name twice", false, &[file(b"a", 5), file(b"a", 5)]);
    table.tree("P5 file and directory of one name", false, &[file(b"a", 5), dir(b"a")]);
    table.tree("P5 names out of order", false, &[file(b"b", 5), file(b"a", 5)]);
    table.tree("P5 clashing case", true, &[file(b"A", 5), file(b"a", 5)]);
    table.tree("P5 clashing normal forms", true, &[file("e\u{301}".as_bytes(), 5), file("\u{e9}".as_bytes(), 5)]);
    table.tree("a dash sorts before a slash", true, &[file(b"a-b", 5), file(b"a/c", 5)]);
    table.both("an empty tree", true, 1, 16, &[], "");
    table.both("P7 a file content without file", false, 0, 16, &[], "");
    table.both("P7 a file content with two", false, 0, 16, &[file(b"", 5), file(b"", 5)], "");
    table.both("P4 a content that is a link", false, 0, 16, &[link(b"", b"x")], "");
    table.both("P4 a content that is an empty directory", false, 0, 16, &[dir(b"")], "");
    for tag in [4_u8, 5, 0x7f, 0x80, 0xff] {
        table.one(
            format!("P11 entry of kind {tag}: device, setuid or what else"),
            false,
            binary(1, 16, &[Raw { tag, ..file(b"x", 0) }], ""),
        );
    }
    for shape in [2_u8, 0x7f, 0xff] {
        table.one(format!("a content of shape {shape}"), false, binary(shape, 16, &[file(b"x", 5)], ""));
    }
}

/// What a manifest with these sizes must be, worked out without the code that is tested.
fn sizes_are_good(log: u8, sizes: &[u64]) -> bool {
    if !(16..=24).contains(&log) {
        return false;
    }
    let total: u128 = sizes.iter().map(|s| u128::from(*s)).sum();
    let piece = 1_u128 << log;
    let (mut pieces, mut open) = (0_u128, None::<u128>);
    for size in sizes.iter().map(|s| u128::from(*s)).filter(|s| *s > 0) {
        if size > piece {
            pieces += size.div_ceil(piece);
        } else {
            open = match open {
                Some(used) if used + size <= piece => Some(used + size),
                _ => {
                    pieces += 1;
                    Some(size)
                }
            };
        }
    }
    total <= 1 << 63 && pieces <= 4_194_304
}

fn sizes(table: &mut Table) {
    for log in [0_u8, 1, 15, 16, 17, 20, 22, 24, 25, 31, 32, 63, 64, 65, 127, 128, 255] {
        for a in edges() {
            let good = sizes_are_good(log, &[a]);
            table.both(&format!("P7 {a} bytes in pieces of 2^{log}"), good, 0, log, &[file(b"", a)], "");
        }
    }
    for a in edges() {
        for b in edges() {
            let good = sizes_are_good(24, &[a, b]);
            table.tree(
                &format!("P7 files of {a} and {b} bytes"),
                sizes_are_good(16, &[a, b]),
                &[file(b"a", a), file(b"b", b)],
            );
            table.both(
                &format!("P7 files of {a} and {b} bytes, large pieces"),
                good,
                1,
                24,
                &[file(b"a", a), file(b"b", b)],
                "",
            );
        }
    }
    for count in [1_u64, 2, 1_000_000, 1_000_001, 1 << 32, 1 << 63, u64::MAX] {
        table.one(format!("P6 {count} entries that never come"), false, head(1, 16, count));
    }
    let mut empty_root = head(0, 16, 1);
    empty_root.extend([0, 0, 0x80, 0]);
    table.one("P8 a size with a needless byte", false, empty_root);
    let json = |size: &str| {
        let root = to_hex(&ROOT);
        format!(
            "{{\"shoal\":1,\"kind\":\"file\",\"piece_size\":65536,\"entries\":[{{\"kind\":\"file\",\"size\":{size},\"blake3\":\"{root}\"}}]}}"
        )
    };
    table.one("a plain number", true, json("5").into_bytes());
    for size in [
        "-1",
        "-0",
        "0",
        "1.0",
        "5e0",
        "1e400",
        "1E5",
        "\"5\"",
        "null",
        "true",
        "[5]",
        "{}",
        "05",
        "+5",
        "0x5",
        "5.",
        ".5",
        "NaN",
        "Infinity",
        "18446744073709551616",
        "99999999999999999999999999999",
        "",
        "5 5",
        "5,5",
    ] {
        table.one(format!("P8 the size {size}"), false, json(size).into_bytes());
    }
}

fn syntax(table: &mut Table) {
    let good = String::from_utf8(json(1, 16, &[file(b"a/b", 5), dir(b"c")], "{\"name\":\"n\"}").unwrap_or_default())
        .unwrap_or_default();
    table.one("a plain tree", true, good.clone().into_bytes());
    table.one("white space", true, good.replace(',', " ,\n\t ").into_bytes());
    let mut bad = |name: &str, bytes: Vec<u8>| table.one(format!("P8 {name}"), false, bytes);
    for (n, c) in ["[", "{\"a\":", "[[", "{\"entries\":["].iter().enumerate() {
        bad(&format!("nesting of kind {n}"), c.repeat(200_000).into_bytes());
        bad(&format!("nesting of kind {n} in a field"), good.replace("65536", &c.repeat(50_000)).into_bytes());
    }
    bad("a string of 8 MiB", good.replace("a/b", &"x".repeat(8 << 20)).into_bytes());
    bad("a string without end", [good.as_bytes(), b"\"", &vec![b'x'; 1 << 20]].concat());
    let keys: String = (0..200_000).map(|n| format!("\"k{n}\":1,")).collect();
    bad("200,000 keys", good.replacen('{', &format!("{{{keys}"), 1).into_bytes());
    for (what, from, to) in [
        ("a key twice", "\"shoal\":1", "\"shoal\":1,\"shoal\":1"),
        ("entries twice", "\"kind\":\"tree\"", "\"kind\":\"tree\",\"entries\":[]"),
        ("an unknown key", "\"shoal\":1", "\"shoal\":1,\"x\":1"),
        ("an unknown key in an entry", "\"kind\":\"dir\"", "\"kind\":\"dir\",\"mode\":2541"),
        ("a setuid mode", "\"size\":5", "\"size\":5,\"mode\":\"4755\""),
        ("an owner", "\"size\":5", "\"size\":5,\"uid\":0"),
        ("no version", "\"shoal\":1,", ""),
        ("version 0", "\"shoal\":1", "\"shoal\":0"),
        ("version 2", "\"shoal\":1", "\"shoal\":2"),
        ("a comment", "{\"shoal\"", "/*x*/{\"shoal\""),
        ("a comment of a line", "{\"shoal\"", "//x\n{\"shoal\""),
        ("a byte order mark", "{\"shoal\"", "\u{feff}{\"shoal\""),
        ("a comma too many", "}]}", "},]}"),
        ("text behind it", "}]}", "}]}x"),
        ("another one behind it", "}]}", "}]}{}"),
        ("NUL behind it", "}]}", "}]}\0"),
        ("single quotes", "\"tree\"", "'tree'"),
        ("a lone surrogate", "a/b", "a\\ud800"),
        ("surrogates in the wrong order", "a/b", "a\\udc00\\ud800"),
        ("an escaped way up", "a/b", "\\u002e\\u002e/b"),
        ("an escaped slash at the start", "a/b", "\\/b"),
        ("an escaped NUL", "a/b", "a\\u0000"),
        ("a root in capitals", "0707", "0A0A"),
        ("a root too short", "0707", "07"),
        ("a root too long", "0707", "070707"),
        ("null for hints", "{\"name\":\"n\"}", "null"),
        ("an array for hints", "{\"name\":\"n\"}", "[]"),
        ("an array for an entry", "{\"path\":\"c\",\"kind\":\"dir\"}", "[\"c\",\"dir\"]"),
        ("an object for a kind", "\"kind\":\"dir\"", "\"kind\":{\"dir\":null}"),
        (
            "a wrong id",
            "\"shoal\":1",
            "\"shoal\":1,\"id\":\"0000000000000000000000000000000000000000000000000000000000000000\"",
        ),
        (
            "an id in capitals",
            "\"shoal\":1",
            "\"shoal\":1,\"id\":\"ABCD000000000000000000000000000000000000000000000000000000000000\"",
        ),
        ("a hinted tracker that is a file", "{\"name\":\"n\"}", "{\"trackers\":[\"file:///etc/passwd\"]}"),
        ("a hinted tracker with a password", "{\"name\":\"n\"}", "{\"trackers\":[\"http://u:p@h/\"]}"),
        ("a hinted tracker with a line break", "{\"name\":\"n\"}", "{\"trackers\":[\"http://h/\\r\\nx: y\"]}"),
        ("a hinted web seed of gopher", "{\"name\":\"n\"}", "{\"web_seeds\":[\"gopher://h/\"]}"),
    ] {
        let changed = good.replacen(from, to, 1);
        assert_ne!(changed, good, "{what}");
        bad(what, changed.into_bytes());
    }
    let trackers = vec!["\"http://h:7070\""; 17].join(",");
    bad("17 hinted trackers", good.replace("{\"name\":\"n\"}", &format!("{{\"trackers\":[{trackers}]}}")).into_bytes());
    bad("nothing", Vec::new());
    bad("a web page", b"<html>404</html>".to_vec());
    bad("zeros", vec![0; 4096]);
    bad("P9 gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xed\xc1".repeat(100));
    bad("P9 zstd", b"\x28\xb5\x2f\xfd\xa4\0\0\0\x80".repeat(100));
    bad("an ELF", b"\x7fELF\x02\x01\x01\0".repeat(100));
    let form = binary(1, 16, &[file(b"a/b", 5), link(b"c", b"d")], "{\"name\":\"n\"}");
    let content = binary(1, 16, &[file(b"a/b", 5), link(b"c", b"d")], "").len();
    for end in (0..form.len()).filter(|end| *end != content) {
        bad(&format!("the binary form cut at {end}"), form[..end].to_vec());
    }
    for at in 0..8 {
        let mut other = form.clone();
        other[at] ^= 0x40;
        bad(&format!("the binary form with byte {at} changed"), other);
    }
    for behind in ["{}{}", "[]", "null", "{\"x\":1}", "{\"name\":\"..\"}", "{\"name\":\"a/b\"}", " x", "\0"] {
        bad(&format!("{behind:?} behind the binary form"), binary(1, 16, &[file(b"a", 5)], behind));
    }
    for wide in
        [&b"\x80"[..], &[0xff; 9], &[0xff; 10], &[0x80; 10], &[0x80; 11], b"\x81\x80\x80\x80\x80\x80\x80\x80\x80\x02"]
    {
        let mut bytes = head(1, 16, 0);
        bytes.pop();
        bytes.extend(wide);
        bad(&format!("the number of entries as {}", wide.escape_ascii()), bytes);
    }
}

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let mut table = Table::default();
    names(&mut table);
    structure(&mut table);
    sizes(&mut table);
    syntax(&mut table);
    table.0
}
