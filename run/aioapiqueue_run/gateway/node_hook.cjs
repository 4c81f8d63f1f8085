// Sends all HTTPS requests of a Node.js process through the gateway: those of node:https with any
// agent (such as the AWS SDK for JavaScript), of the built-in fetch, and of undici from npm. Node
// loads this file before the program (NODE_OPTIONS=--require). Its own NODE_USE_ENV_PROXY has no
// effect on agents that a program makes, and none at all before Node 24. HTTP/2 to a host with a
// limit is impossible: the gateway offers HTTP/1.1 only, and a request that needs HTTP/2 fails.
'use strict';
const http = require('node:http');
const http2 = require('node:http2');
const https = require('node:https');
const net = require('node:net');
const tls = require('node:tls');
const { Duplex } = require('node:stream');

const installed = Symbol.for('aioapiqueue.installed');
const url = process.env.AIOAPIQUEUE_GATEWAY;

if (url && !globalThis[installed]) {
  Object.defineProperty(globalThis, installed, { value: true });
  const proxy = new URL(url);
  const user = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
  const authorization = `Basic ${Buffer.from(user).toString('base64')}`;
  const direct = (process.env.NO_PROXY || '').split(',').map((one) => one.trim()).filter(Boolean);
  const isDirect = (host) => direct.includes(String(host).replace(/^\[|\]$/g, ''));

  // A connection to a host through the proxy. It can be used at once, as node:https requires of
  // createConnection: data waits in it until the proxy has connected.
  class Tunnel extends Duplex {
    constructor(host, port) {
      super({ autoDestroy: true });
      this._early = [];
      const target = `${net.isIPv6(host) ? `[${host}]` : host}:${port || 443}`;
      this._request = http.request({
        host: proxy.hostname,
        port: proxy.port || 80,
        method: 'CONNECT',
        path: target,
        headers: { Host: target, 'Proxy-Authorization': authorization },
        agent: false,
      });
      this._request.once('error', (error) => this.destroy(error));
      this._request.once('connect', (answer, socket, head) => {
        if (answer.statusCode !== 200) {
          socket.destroy();
          this.destroy(new Error(`aioapiqueue: the gateway returned status ${answer.statusCode} for ${target}`));
          return;
        }
        this._socket = socket;
        socket.setNoDelay(true);
        if (this._idle) socket.unref();
        socket.on('data', (data) => { if (!this.push(data)) socket.pause(); });
        // Not destroyed: a slow program may not have read all data yet.
        socket.once('end', () => { this._over = true; this.push(null); });
        // Once everything has been received, a failed write is no error: TLS announces its end by
        // a message, which fails with EPIPE if the server has closed. Unhandled, it would end the
        // program with exit code 1.
        socket.on('error', (error) => { if (!this._over) this.destroy(error); });
        socket.once('close', () => { if (!this._over) this.destroy(); });
        if (head.length) this.push(head);
        for (const write of this._early) write();
        this._early = [];
      });
      this._request.end();
    }
    // An idle connection must not keep the program alive.
    ref() { this._idle = false; if (this._socket) this._socket.ref(); }
    unref() { this._idle = true; if (this._socket) this._socket.unref(); }
    _whenThere(act) { if (this._socket) act(); else this._early.push(act); }
    _write(data, encoding, done) {
      this._whenThere(() => this._socket.write(data, encoding, (error) => {
        done(this._over ? null : error);
      }));
    }
    _final(done) {
      this._whenThere(() => (this._socket.destroyed ? done() : this._socket.end(() => done())));
    }
    _read() { if (this._socket) this._socket.resume(); }
    _destroy(error, done) {
      this._request.destroy();
      if (this._socket) this._socket.destroy();
      done(error);
    }
  }

  const connectTls = tls.connect;
  const tunnelled = new WeakSet();
  const connect = (host, port, options, connected) => {
    const name = options.servername || (net.isIP(host) ? undefined : host);
    const tunnel = new Tunnel(host, port);
    const socket = connectTls({ ...options, socket: tunnel, servername: name }, connected);
    tunnelled.add(socket);
    // Node closes its own sockets after the server has, and its agents rely on that: otherwise they
    // would use the connection again, for a request that gets no response. At this event, all data
    // has been read.
    socket.once('end', () => setImmediate(() => socket.destroy()));
    for (const word of ['ref', 'unref']) {
      const own = socket[word];
      socket[word] = function () { tunnel[word](); return own.call(this); };
    }
    if (options.timeout) socket.setTimeout(options.timeout);
    return socket;
  };

  const isOurs = (options) => options && typeof options === 'object' && !options.socket
    && !isDirect(options.host || 'localhost');

  const createConnection = https.Agent.prototype.createConnection;
  https.Agent.prototype.createConnection = function (...given) {
    const [options] = given;
    if (!isOurs(options) || options.socketPath) return createConnection.apply(this, given);
    return connect(options.host, options.port, options);
  };

  // undici makes its own connections. A program can have several undicis: the built-in one behind
  // fetch, and others from npm, whose dispatchers differ between versions. A replaced dispatcher
  // missed some of them. All of them call this function and offer HTTP/1.1 in ALPN, which other
  // protocols over TLS do not.
  tls.connect = function (...given) {
    const [options, connected] = given;
    if (!isOurs(options) || options.path || !String(options.ALPNProtocols).includes('http/1.1')) {
      return connectTls.apply(this, given);
    }
    return connect(options.host, options.port, options, connected);
  };

  const connectHttp2 = http2.connect;
  http2.connect = function (authority, options, ...rest) {
    const to = new URL(authority);
    if (to.protocol !== 'https:' || isDirect(to.hostname)) {
      return connectHttp2.call(this, authority, options, ...rest);
    }
    // undici passes in a connection on which the server has chosen HTTP/2. If it is a tunnel of
    // ours, the host has no limit, because the gateway itself never chooses HTTP/2.
    const bring = options && options.createConnection;
    const socket = typeof bring === 'function' ? bring.call(options, to, options) : undefined;
    if (!tunnelled.has(socket)) {
      throw new Error(`aioapiqueue: HTTP/2 to ${to.host} cannot be paced: use HTTP/1.1, or `
        + 'run with --no-any');
    }
    return connectHttp2.call(this, authority, { ...options, createConnection: () => socket },
      ...rest);
  };
}
