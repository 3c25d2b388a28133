//! Counts the calls that a caller cancels, where its bytes pass: whatever becomes of a call within, whoever it is
//! refused by, and whether its task ever ran.

/// The bytes of an HTTP/2 connection as they come from its caller (RFC 9113, 3.4 and 4.1).
#[derive(Debug, Default)]
pub(crate) struct ResetCounter {
    /// Of the preface: how many bytes have come.
    preface: usize,
    /// Of the frame's head that comes next: what has come of it.
    head: [u8; HEADER_BYTES],
    has: usize,
    /// How many bytes of the last frame's payload are still to come.
    payload: usize,
    has_begun: bool,
}

/// A frame's length, kind, flags and stream.
const HEADER_BYTES: usize = 9;
const RST_STREAM: u8 = 3;

impl ResetCounter {
    pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    /// Whether the preface and the first frame's head have come: whoever has said less has not begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Takes in what has come, and tells how many frames in it cancel a call. That the bytes are HTTP/2 at all is
    /// not looked at here: they are read as they stand, and whoever serves the connection ends it.
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
            let came = bytes.len().min(HEADER_BYTES - self.has);
            self.head[self.has..self.has + came].copy_from_slice(&bytes[..came]);
            self.has += came;
            bytes = &bytes[came..];
            if self.has == HEADER_BYTES {
                let [high, middle, low, kind, ..] = self.head;
                let length = u32::from_be_bytes([0, high, middle, low]);
                self.payload = usize::try_from(length).expect("24 bits");
                self.has = 0;
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
    fn each_reset_counts_once_however_the_bytes_are_cut() {
        let mut bytes = ResetCounter::PREFACE.to_vec();
        // What looks like one within another's payload is none.
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
    fn it_has_begun_with_the_head_of_the_first_frame() {
        let bytes = [ResetCounter::PREFACE, &frame(4, &[])].concat();
        let mut resets = ResetCounter::default();
        resets.count(&bytes[..bytes.len() - 1]);
        assert!(!resets.has_begun());
        resets.count(&bytes[bytes.len() - 1..]);
        assert!(resets.has_begun());
    }
}
