//! Whatever bytes come in by the control file, or back from it: they are refused, or a message that is these bytes.
#![no_main]

use agentfs_proto::{Request, Response, frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(body) = frame::decode(bytes) {
        assert!(body.len() + 4 <= bytes.len());
        look(body);
    }
    look(bytes);
});

fn look(body: &[u8]) {
    if let Ok(request) = Request::decode(body) {
        assert_eq!(Request::decode(&request.encode()).ok(), Some(request));
    }
    if let Ok(response) = Response::decode(body) {
        let again = response.encode();
        assert_eq!(Response::decode(&again).ok(), Some(response));
    }
}
