// Has all HTTPS requests of a Node.js go through the gateway: those of node:https, whichever agent
// they bring (so the AWS SDK for JavaScript), and those of the built-in fetch. Node loads it before
// the program, by NODE_OPTIONS=--require; its own NODE_USE_ENV_PROXY has no effect on agents that a
// program makes, and none at all before Node 24. HTTP/2 cannot go through: it is refused.
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

  // A connection to a host through the proxy, which is there at once: what is written waits until
  // the proxy has connected.
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
          this.destroy(new Error(`aioapiqueue: the gateway answers ${answer.statusCode} for ${target}`));
          return;
        }
        this._socket = socket;
        socket.setNoDelay(true);
        if (this._idle) socket.unref();
        socket.on('data', (data) => { if (!this.push(data)) socket.pause(); });
        // What has come is still to be read, however the connection ends.
        socket.once('end', () => { this._over = true; this.push(null); });
        socket.once('error', (error) => this.destroy(error));
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
    _write(data, encoding, done) { this._whenThere(() => this._socket.write(data, encoding, done)); }
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

  const connect = (host, port, options) => {
    const name = options.servername || (net.isIP(host) ? undefined : host);
    const tunnel = new Tunnel(host, port);
    const socket = tls.connect({ ...options, socket: tunnel, servername: name });
    for (const word of ['ref', 'unref']) {
      const own = socket[word];
      socket[word] = function () { tunnel[word](); return own.call(this); };
    }
    if (options.timeout) socket.setTimeout(options.timeout);
    return socket;
  };

  const createConnection = https.Agent.prototype.createConnection;
  https.Agent.prototype.createConnection = function (...given) {
    const [options] = given;
    if (!options || typeof options !== 'object' || isDirect(options.host || 'localhost')
      || options.socketPath || options.socket) {
      return createConnection.apply(this, given);
    }
    return connect(options.host, options.port, options);
  };

  const connectHttp2 = http2.connect;
  http2.connect = function (authority, ...rest) {
    const to = new URL(authority);
    if (to.protocol === 'https:' && !isDirect(to.hostname)) {
      throw new Error(`aioapiqueue: HTTP/2 to ${to.host} cannot be paced: have it use HTTP/1.1, or `
        + 'run without --any');
    }
    return connectHttp2.call(this, authority, ...rest);
  };

  // The built-in fetch, and whatever undici a program brings, have their dispatcher under this
  // symbol: the first that is loaded makes it. It is ours, unless the program sets another one.
  const dispatcher = Symbol.for('undici.globalDispatcher.1');
  const { fetch } = globalThis;
  let loading = false;
  let within = false; // the built-in one was being loaded as it asked, and has made its own since
  let done = false;
  const install = () => {
    if (loading || done) return;
    loading = true;
    void globalThis.Response; // loads the built-in one
    loading = false;
    const found = Object.getOwnPropertyDescriptor(globalThis, dispatcher);
    if (!found || !('value' in found)) { within = true; return; }
    done = true;
    replace(found.value);
  };
  Object.defineProperty(globalThis, dispatcher, {
    configurable: true,
    enumerable: false,
    get() {
      if (loading) return undefined;
      install();
      const found = Object.getOwnPropertyDescriptor(globalThis, dispatcher);
      return found && found.value;
    },
    set(value) {
      Object.defineProperty(globalThis, dispatcher,
        { value, writable: true, enumerable: false, configurable: false });
    },
  });
  const replace = (usual) => {
    const usualConnect = (options) => (options.protocol === 'https:'
      ? tls.connect({ host: options.hostname, port: options.port || 443, ALPNProtocols: ['http/1.1'],
        servername: options.servername || options.hostname })
      : net.connect({ host: options.hostname, port: options.port || 80 }));
    const dial = (options, done) => {
      const secure = options.protocol === 'https:';
      const socket = secure && !isDirect(options.hostname)
        ? connect(options.hostname, options.port, { servername: options.servername,
          ALPNProtocols: ['http/1.1'] })
        : usualConnect(options);
      const settle = (error) => {
        socket.removeListener('error', settle);
        done(error || null, error ? undefined : socket);
      };
      socket.once(secure ? 'secureConnect' : 'connect', () => settle(null));
      socket.once('error', settle);
    };
    globalThis[dispatcher] = new usual.constructor({ connect: dial });
  };
  if (typeof fetch === 'function') {
    globalThis.fetch = function (input, init) {
      const found = Object.getOwnPropertyDescriptor(globalThis, dispatcher);
      if (!done && within && found && 'value' in found) {
        done = true;
        replace(found.value);
      } else if (!done && found && !('value' in found)) {
        install();
      }
      return fetch.call(this, input, init);
    };
  }
}
