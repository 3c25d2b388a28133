//! Counts the RST_STREAM frames in the bytes of a connection, since hyper does not report them.

/// Parses the frame headers of an HTTP/2 client (RFC 9113, 3.4 and 4.1).
#[derive(Debug, Default)]
pub(crate) struct ResetCounter {
    /// Bytes of the preface that have arrived.
    preface: usize,
    /// The bytes of the next frame header, of which `received` have arrived.
    header: [u8; HEADER_BYTES],
    received: usize,
    /// Bytes of the payload that have not arrived yet.
    payload: usize,
    has_begun: bool,
}

/// The size of a frame header: length, type, flags and stream.
const HEADER_BYTES: usize = 9;
const RST_STREAM: u8 = 3;

impl ResetCounter {
    pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    /// Whether the preface and the first frame header have arrived.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Returns how many RST_STREAM frames have their last header byte in these bytes. Does not detect bytes that are
    /// not HTTP/2: hyper ends such a connection.
    pub(crate) fn count(&mut self, mut bytes: &[u8]) -> u32 {
        let preface = bytes.len().min(Self::PREFACE.len() - self.preface);
        self.preface += preface;
        bytes = &bytes[preface..];
        let mut resets = 0;
        while !bytes.is_empty() {
            if self.payload > 0 {
                let skipped = self.payload.min(bytes.len());
                self.payload -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let arrived = bytes.len().min(HEADER_BYTES - self.received);
            self.header[self.received..self.received + arrived].copy_from_slice(&bytes[..arrived]);
            self.received += arrived;
            bytes = &bytes[arrived..];
            if self.received == HEADER_BYTES {
                let [high, middle, low, kind, ..] = self.header;
                let length = u32::from_be_bytes([0, high, middle, low]);
                self.payload = usize::try_from(length).expect("24 bits");
                self.received = 0;
                self.has_begun = true;
                resets += u32::from(kind == RST_STREAM);
            }
        }
        resets
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, 0, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn each_reset_counts_once_however_the_bytes_are_split() {
        let mut bytes = ResetCounter::PREFACE.to_vec();
        // A payload that looks like a RST_STREAM frame does not count.
        for (kind, payload) in [
            (4, vec![]),
            (1, vec![RST_STREAM; 70_000]),
            (RST_STREAM, vec![0; 4]),
            (0, frame(RST_STREAM, &[0; 4])),
            (RST_STREAM, vec![0; 4]),
            (RST_STREAM, vec![0; 4]),
        ] {
            bytes.extend(frame(kind, &payload));
        }
        for piece in [1, 2, 3, 5, 7, 9, 13, 24, 33, 1_000, bytes.len()] {
            let mut resets = ResetCounter::default();
            let counted: u32 = bytes.chunks(piece).map(|piece| resets.count(piece)).sum();
            assert_eq!(counted, 3, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_connection_has_begun_with_the_header_of_its_first_frame() {
        let bytes = [ResetCounter::PREFACE, &frame(4, &[])].concat();
        let mut resets = ResetCounter::default();
        resets.count(&bytes[..bytes.len() - 1]);
        assert!(!resets.has_begun());
        resets.count(&bytes[bytes.len() - 1..]);
        assert!(resets.has_begun());
    }
}
