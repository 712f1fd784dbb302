//! What the codec of Redis's protocol costs by command: a pipeline of GETs read, and their values written.
//!
//! `cargo bench -p loci-benches --bench resp`

use std::hint::black_box;
use std::time::Instant;

use loci_wire::resp::{Decoder, Limits, Protocol, Request, Writer, encode_request};

const ROUNDS: usize = 200_000;
const PIPELINE: usize = 16;
const VALUE: [u8; 100] = [b'v'; 100];

/// Nanoseconds by command, the best of some rounds: the rest is the machine's.
fn measure(commands: usize, mut run: impl FnMut()) -> f64 {
    let rounds = ROUNDS / 10;
    let once = |run: &mut dyn FnMut()| {
        let begin = Instant::now();
        (0..rounds).for_each(|_| run());
        begin.elapsed().as_nanos() as f64 / (rounds * commands) as f64
    };
    (0..10).map(|_| once(&mut run)).fold(f64::INFINITY, f64::min)
}

fn main() {
    let mut stream = Vec::new();
    for number in 0..PIPELINE {
        encode_request(&mut stream, &["GET".to_string(), format!("key:{number:012}")]);
    }
    let (mut decoder, mut request) = (Decoder::new(), Request::new());
    let mut writer = Writer::new(Protocol::Three);
    let mut pipeline = |answer: bool| {
        let mut begin = 0;
        writer.bytes_mut().clear();
        while begin < stream.len() {
            let input = &stream[begin..];
            let Ok(Some(taken)) = decoder.decode(input, &Limits::OPEN, &mut request) else { return };
            begin += taken;
            black_box(request.get(input, 1));
            if answer {
                writer.bulk(black_box(VALUE));
            }
        }
        black_box(writer.bytes());
    };
    let read = measure(PIPELINE, || pipeline(false));
    let both = measure(PIPELINE, || pipeline(true));
    println!(
        "GET of a key of 16 bytes in a pipeline of {PIPELINE}: {read:.1} ns to read, {:.1} ns to answer",
        both - read
    );
    let mut writer = Writer::new(Protocol::Two);
    let doubles = measure(2, || {
        writer.bytes_mut().clear();
        writer.double(black_box(0.1));
        writer.double(black_box(12_345.0));
    });
    println!("a double: {doubles:.1} ns");
}
