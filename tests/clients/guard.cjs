// What ../guard does for Python: Node refuses every address beyond loopback, and writes it down.
// Loaded with NODE_OPTIONS=--require.
const fs = require("node:fs");
const net = require("node:net");

const connect = net.Socket.prototype.connect;

function host(given) {
  const first = Array.isArray(given[0]) ? given[0][0] : given[0]; // Node normalizes to an array
  if (typeof first === "object") return first.path ? "localhost" : (first.host ?? "localhost");
  return typeof given[1] === "string" ? given[1] : "localhost";
}

net.Socket.prototype.connect = function (...given) {
  const asked = host(given);
  if (!/^(localhost|127(\.\d+){3}|::1)$/.test(asked)) {
    fs.appendFileSync(process.env.NETWORK_GUARD_LOG, `connect ${asked} by Node ${process.pid}\n`);
    throw new Error(`The tests keep everything on loopback, but Node asked for ${asked}`);
  }
  return connect.apply(this, given);
};
