// SPDX-License-Identifier: Apache-2.0
// leaky.js PORT: connects and never closes. Says what it holds, then waits for the end
// of its input. The first byte tells the test's server what to do: e: close, d: send
// 100 bytes and close.
const net = require('net');

const kept = [];
function leak(wish, verdict, then) {
  const s = net.connect({port: Number(process.argv[2]), host: '127.0.0.1', allowHalfOpen: true}, () => {
    const say = () => {
      console.log(process.pid, s._handle.fd, s.localAddress + ':' + s.localPort, verdict);
      then();
    };
    if (verdict === 'eof_read') {
      s.on('end', say); // allowHalfOpen: end() is ours to call
      s.resume();
      s.write(wish);
    } else {
      s.pause(); // and never resumed
      s.write(wish, say);
    }
  });
  kept.push(s);
}

leak('e', 'eof_unread', () => leak('e', 'eof_read', () => leak('d', 'data_unread', () => leak('d', 'eof_read', () => {
  console.log('done');
  process.stdin.resume();
  process.stdin.on('end', () => process.exit(0));
}))));
