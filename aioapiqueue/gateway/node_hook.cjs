// Has all HTTPS requests of a Node.js go through HTTPS_PROXY: those of node:https, whichever agent
// they bring (so the AWS SDK for JavaScript), and those of the built-in fetch. Node loads it before
// the program, by NODE_OPTIONS=--require; its own NODE_USE_ENV_PROXY has no effect on agents that a
// program makes, and none at all before Node 24.
'use strict';
const http = require('node:http');
const https = require('node:https');
const tls = require('node:tls');

const installed = Symbol.for('aioapiqueue.installed');
const url = process.env.HTTPS_PROXY || process.env.https_proxy;

if (url && !globalThis[installed]) {
  Object.defineProperty(globalThis, installed, { value: true });
  const proxy = new URL(url);
  const user = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
  const authorization = `Basic ${Buffer.from(user).toString('base64')}`;
  const direct = (process.env.NO_PROXY || '').split(',').map((one) => one.trim()).filter(Boolean);
  const isDirect = (host) => direct.includes(String(host).replace(/^\[|\]$/g, ''));

  // Connect to a host through the proxy; done(error, socket) is called once.
  const connect = (host, port, options, done) => {
    const target = `${String(host).includes(':') ? `[${host}]` : host}:${port || 443}`;
    const request = http.request({
      host: proxy.hostname,
      port: proxy.port || 80,
      method: 'CONNECT',
      path: target,
      headers: { Host: target, 'Proxy-Authorization': authorization },
      agent: false,
    });
    request.once('connect', (answer, socket) => {
      if (answer.statusCode === 200) {
        done(null, tls.connect({ ...options, socket, servername: options.servername || host }));
      } else {
        socket.destroy();
        done(new Error(`aioapiqueue: the gateway answers ${answer.statusCode} for ${target}`));
      }
    });
    request.once('error', done);
    request.end();
  };

  const createConnection = https.Agent.prototype.createConnection;
  https.Agent.prototype.createConnection = function (options, done) {
    if (isDirect(options.host) || options.socketPath) {
      return createConnection.call(this, options, done);
    }
    connect(options.host, options.port, options, done);
    return undefined;
  };

  // The built-in fetch keeps its dispatcher under this symbol; its class is found by the first one.
  const dispatcher = Symbol.for('undici.globalDispatcher.1');
  const { fetch } = globalThis;
  let hooked = false;
  const hookFetch = () => {
    hooked = true;
    void globalThis.Response; // loads it
    const usual = globalThis[dispatcher];
    if (!usual) throw new Error('aioapiqueue: this Node has another fetch, which cannot be paced');
    const dial = (options, done) => {
      if (options.protocol !== 'https:' || isDirect(options.hostname)) {
        const to = { ...options, host: options.hostname, port: options.port || undefined };
        const socket = options.protocol === 'https:'
          ? tls.connect({ ...to, servername: options.servername || options.hostname })
          : require('node:net').connect({ ...to, port: options.port || 80 });
        const ready = options.protocol === 'https:' ? 'secureConnect' : 'connect';
        socket.once(ready, () => done(null, socket)).once('error', done);
        return;
      }
      connect(options.hostname, options.port, { servername: options.servername, ALPNProtocols: ['http/1.1'] },
        (error, socket) => {
          if (error) { done(error); return; }
          socket.once('secureConnect', () => done(null, socket)).once('error', done);
        });
    };
    Object.defineProperty(globalThis, dispatcher, {
      value: new usual.constructor({ connect: dial }),
      writable: true,
      enumerable: false,
      configurable: false,
    });
  };
  if (typeof fetch === 'function') {
    globalThis.fetch = function (input, init) {
      if (!hooked) hookFetch();
      return fetch.call(this, input, init);
    };
  }
}
