//! What an eavesdropper has: everything that crosses a host's interfaces.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::lab::Host;
use crate::process::Running;

/// A capture that runs until it is read.
pub struct Capture {
    tcpdump: Running,
    file: PathBuf,
    _home: tempfile::TempDir,
}

impl Capture {
    /// Starts to record every interface of a host.
    pub fn start(host: &Host) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let file = home.path().join("wire.pcap");
        let path = file.display().to_string();
        // As root it writes as root; each packet is written when it is seen.
        let tcpdump = host.start(&[
            "tcpdump",
            "-i",
            "any",
            "-s",
            "0",
            "-U",
            "--immediate-mode",
            "-Z",
            "root",
            "-w",
            &path,
        ]);
        tcpdump.wait_for_log("listening on", Duration::from_secs(10));
        Self {
            tcpdump,
            file,
            _home: home,
        }
    }

    /// Everything recorded, once these bytes are in it: the last that was sent.
    pub fn read_until(&self, last: &[u8], within: Duration) -> Vec<u8> {
        let start = Instant::now();
        loop {
            let bytes = std::fs::read(&self.file).expect("tcpdump made it");
            if contains(&bytes, last) {
                return bytes;
            }
            assert!(
                start.elapsed() < within,
                "the capture is blind: {}",
                self.tcpdump.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Whether these bytes occur there.
pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}
