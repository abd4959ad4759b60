// SPDX-License-Identifier: Apache-2.0
// where.js connect|lookup ADDRESS PORT: makes a connection for each line of its input and
// keeps it, as the C programs of internal/specimen do. With connect node does it in a later
// tick, even to an address. With lookup the program resolves a name by itself, and at once:
// node then calls connect() before net.connect() returns.
const net = require('net');
const readline = require('readline');

const [how, address, port] = process.argv.slice(2);
const kept = [];

function dialOne(options) {
  const s = net.connect({port, family: 4, ...options});
  kept.push(s);
  s.on('connect', () => {
    s.pause();
    console.log(s.localPort, s._handle.fd);
  });
}

function serve() {
  const lookup = (name, options, callback) => callback(null, address, 4); // connects here
  dialOne(how === 'lookup' ? {host: 'peer.test', lookup} : {host: address});
}

readline.createInterface({input: process.stdin}).on('line', serve).on('close', () => process.exit(0));
