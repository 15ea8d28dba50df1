// Writes testdata/vectors/*.txt and testdata/node-base64.jsonl with nothing but
// Node's own crypto, so that the Go code is checked against a second
// implementation. The output is committed and no test runs this:
//
//	node testdata/generate.mjs
import { createCipheriv, createHash, createHmac, hkdfSync, pbkdf2Sync } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';

const dir = new URL('./vectors/', import.meta.url);
rmSync(dir, { recursive: true, force: true });
mkdirSync(dir, { recursive: true });

const md5 = (b) => createHash('md5').update(b).digest();
const sha256 = (b) => createHash('sha256').update(b).digest();

function cbcRaw(key, plaintext, { salt = Buffer.from('0102030405060708', 'hex'), enc = 'latin1', padded = true } = {}) {
  const password = Buffer.concat([Buffer.from(key, enc), salt]);
  const h1 = md5(password);
  const h2 = md5(Buffer.concat([h1, password]));
  const iv = md5(Buffer.concat([h2, password]));
  const c = createCipheriv('aes-256-cbc', Buffer.concat([h1, h2]), iv);
  c.setAutoPadding(padded);
  return Buffer.concat([Buffer.from('Salted__'), salt, c.update(plaintext), c.final()]);
}
const cbc = (...a) => cbcRaw(...a).toString('base64');

const salt32 = Buffer.from([...Array(32).keys()]);
function gcmRaw(key, plaintext, salt = salt32) {
  const okm = Buffer.from(hkdfSync('sha256', key, salt, 'n8n-encryption-v1', 44));
  const c = createCipheriv('aes-256-gcm', okm.subarray(0, 32), okm.subarray(32));
  const body = Buffer.concat([c.update(plaintext), c.final()]);
  return Buffer.concat([Buffer.from([1]), salt, c.getAuthTag(), body]);
}
const gcm = (...a) => gcmRaw(...a).toString('base64');
const wrapRaw = (key, plaintext, salt) => gcmRaw(sha256(key), plaintext, salt);
const wrap = (...a) => wrapRaw(...a).toString('base64');

const q = (s) => JSON.stringify(s);
let count = 0;
function vector(name, headers, stored) {
  let text = '';
  for (const [k, v] of Object.entries(headers)) for (const one of [v ?? []].flat()) text += `${k}: ${one}\n`;
  if (stored !== undefined) text += '\n' + (/^[\x21\x23-\x7e][\x20-\x7e]*$/.test(stored) ? stored : q(stored)) + '\n';
  writeFileSync(new URL(name + '.txt', dir), text);
  count++;
}
const flip = (raw, i, bit = 1) => { const b = Buffer.from(raw); b[i < 0 ? b.length + i : i] ^= bit; return b.toString('base64'); };
const cut = (raw, n) => raw.subarray(0, n).toString('base64');

const KEY = 'n8n-test-key-0123456789abcdef';
const OTHER = 'another-key-0123456789abcdef';
const JSONTEXT = '{"name":"X","value":"s3cret-ü"}';
const LONGJSON = '{"host":"127.0.0.1","user":"lab","password":"p@ss:w\'ord"}';
const ID = 'p6gKogeT0bxvBwZ8';
const DEK = '00112233445566778899aabbccddeeff'.repeat(2);
const DEK2 = 'f'.repeat(64);
const dek = Buffer.from(DEK, 'hex');
const UUID = 'd66f7bf4-3090-484f-b636-a6412d592aca';
const PEM = '-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n';

// CBC: opens
const C = (o) => ({ expect: 'ok', format: 'cbc', key: KEY, shape: 'json-object', ...o });
const okCBC = (name, plaintext, o = {}, opts) => vector(name, C({ ...o, plaintext: q(plaintext) }), cbc(KEY, plaintext, opts));
vector('cbc-published', C({ note: 'n8n-core 2.41.1', plaintext: q(JSONTEXT), opened: 'instance key' }),
  'U2FsdGVkX18BAgMEBQYHCDbcm9YRK+oY9J3mYohVtRStCPaXwnR4pOofgnD1Hw0hAxnJoGtKq+lO2UkF2+PLFQ==');
okCBC('cbc-empty-plaintext', '', { shape: 'any' });
for (const n of [1, 15, 16, 17, 31, 32]) okCBC(`cbc-plaintext-${n}-bytes`, 'x'.repeat(n), { shape: 'text' });
okCBC('cbc-json-array', '[1,2,3]', { shape: 'json' });
okCBC('cbc-json-unicode', '{"a":"日本語 🔐 é \\ud800"}');
okCBC('cbc-json-leading-space', ' \n{"a":1}\n');
okCBC('cbc-pem', PEM, { shape: 'pem' });
okCBC('cbc-base32', 'IJB2OQKFZCDOAXXRBTESRMOB2S67AE7A', { shape: 'base32' });
okCBC('cbc-uuid', UUID, { shape: 'uuid' });
okCBC('cbc-hex-key', DEK, { shape: 'hex-key' });
vector('cbc-huge', C({ plaintext: q('0123456789abcde\n'), repeat: 65536, shape: 'text', salt: '0102030405060708',
  sha256: sha256(cbc(KEY, '0123456789abcde\n'.repeat(65536))).toString('hex') }));
const LONGKEY = 'k'.repeat(500);
vector('cbc-key-500-characters', C({ key: LONGKEY, plaintext: q(JSONTEXT) }), cbc(LONGKEY, JSONTEXT));
vector('cbc-key-1-character', C({ key: 'k', plaintext: q(JSONTEXT) }), cbc('k', JSONTEXT));
vector('cbc-key-with-spaces', C({ key: q(' "k" \n'), plaintext: q(JSONTEXT) }), cbc(' "k" \n', JSONTEXT));
const KEYS = { latin: 'clé-ünïcode-ÿ-0123456789', cjk: '鍵-日本語-0123456789', emoji: 'k🔐ey-🗝-0123456789' };
for (const [name, key] of Object.entries(KEYS)) {
  vector(`cbc-key-${name}-n8n-1.16`, C({ key, encoding: 'latin1', plaintext: q(JSONTEXT) }), cbc(key, JSONTEXT));
  vector(`cbc-key-${name}-n8n-1.15`, C({ key, encoding: 'utf-8', plaintext: q(JSONTEXT) }), cbc(key, JSONTEXT, { enc: 'utf8' }));
}
vector('cbc-legacy-key', C({ legacy: [KEYS.latin, OTHER], opened: 'legacy key 1', plaintext: q(JSONTEXT) }), cbc(OTHER, JSONTEXT));
vector('cbc-legacy-key-only', C({ key: undefined, legacy: OTHER, opened: 'legacy key 0', plaintext: q(JSONTEXT) }), cbc(OTHER, JSONTEXT));

// CBC: lenient base64, as Node reads it
const raw = cbcRaw(KEY, JSONTEXT);
const text = raw.toString('base64');
const lenient = (name, stored, plaintext = JSONTEXT, canon = text) =>
  vector(name, C({ plaintext: q(plaintext), canonical: canon }), stored);
lenient('cbc-lenient-url-safe', text.replaceAll('+', '-').replaceAll('/', '_'));
lenient('cbc-lenient-no-padding', text.replaceAll('=', ''));
lenient('cbc-lenient-lines', text.replace(/(.{40})/g, '$1\r\n') + '\n');
lenient('cbc-lenient-spaces', ' ' + text.replace(/(.{7})/g, '$1 \t'));
lenient('cbc-lenient-junk', text.replace(/(.{9})/g, '$1!.é'));
lenient('cbc-lenient-after-padding', text + 'AAAA');
lenient('cbc-lenient-stray-bits', text.replace('FQ==', 'FR=='));
lenient('cbc-lenient-low-byte', text.replace(/A/g, '\u0141'));
lenient('cbc-lenient-extra-padding', text + '==');
lenient('cbc-lenient-four-newlines', text.replace(/(.{20})/g, '$1\n'));

// CBC: does not open
const bad = (name, expect, stored, o = {}) => vector(name, C({ expect, ...o }), stored);
const long = cbcRaw(KEY, LONGJSON);
bad('cbc-cut-inside-magic', 'not-ciphertext', cut(raw, 6));
for (const [n, what] of [[8, 'after-magic'], [12, 'inside-salt'], [15, 'below-header'], [16, 'after-header'], [17, 'after-1-byte'], [31, 'below-a-block'], [33, 'inside-block-2'], [47, 'below-block-2']])
  bad(`cbc-cut-${what}`, 'malformed', cut(raw, n));
bad('cbc-cut-text-1-character', 'malformed', text.slice(0, -3));
bad('cbc-cut-last-block', 'wrong-key', cut(long, long.length - 16));
bad('cbc-block-appended', 'wrong-key', Buffer.concat([long, Buffer.alloc(16)]).toString('base64'));
bad('cbc-first-block-missing', 'wrong-key, wrong-shape', Buffer.concat([long.subarray(0, 16), long.subarray(32)]).toString('base64'));
bad('cbc-flip-magic', 'not-ciphertext', flip(raw, 0));
bad('cbc-flip-salt', 'wrong-key', flip(raw, 8));
bad('cbc-flip-first-block', 'wrong-key, wrong-shape', flip(long, 16));
bad('cbc-flip-middle-block', 'wrong-key, wrong-shape', flip(long, 40));
bad('cbc-flip-last-block', 'wrong-key', flip(long, -1));
bad('cbc-flip-padding', 'wrong-key', flip(long, -17));
bad('cbc-wrong-key', 'wrong-key', text, { key: OTHER });
bad('cbc-wrong-keys-legacy', 'wrong-key', text, { key: OTHER, legacy: [OTHER + '1', KEYS.cjk] });
bad('cbc-legacy-wrong-shape', 'wrong-key, wrong-shape', text, { key: OTHER, legacy: [KEY, OTHER + '1'], shape: 'uuid' });
bad('cbc-no-key', 'no-key', text, { key: undefined });
bad('cbc-wrong-case-key', 'wrong-key', text, { key: KEY.toUpperCase() });
{
  let i = 0;
  const { createDecipheriv } = await import('node:crypto');
  for (; ; i++) {
    const password = Buffer.concat([Buffer.from(`wrong-${i}`), raw.subarray(8, 16)]);
    const h1 = md5(password), h2 = md5(Buffer.concat([h1, password])), iv = md5(Buffer.concat([h2, password]));
    try { const d = createDecipheriv('aes-256-cbc', Buffer.concat([h1, h2]), iv); d.update(raw.subarray(16)); d.final(); break; } catch { /* padding */ }
  }
  bad('cbc-wrong-key-right-padding', 'wrong-key, wrong-shape', text, { key: `wrong-${i}`, note: 'padding valid by chance' });
}
const unpadded = (plain) => cbc(KEY, plain, { padded: false });
bad('cbc-padding-zero', 'wrong-key', unpadded(Buffer.from('{"a":"123456"}\0\0')));
bad('cbc-padding-17', 'wrong-key', unpadded(Buffer.concat([Buffer.from('{"a":"1234567"}'), Buffer.alloc(17, 17)])));
bad('cbc-padding-inconsistent', 'wrong-key', unpadded(Buffer.from('{"a":"12345"}\x01\x03\x03')));
bad('cbc-padding-255', 'wrong-key', unpadded(Buffer.concat([Buffer.from('{"a":"1234567"}'), Buffer.from([255])])));
for (const [shape, plaintext] of [['json-object', '[1]'], ['json-object', ''], ['json-object', '{"a":1}{'], ['json', '{"a":'], ['text', ''], ['pem', 'ssh-rsa AAAA'], ['base32', 'IJB2OQKFZCDOAXX'], ['base32', 'ijb2oqkfzcdoaxxrbtesrmob2s67ae7a'], ['uuid', UUID.slice(1)], ['uuid', UUID.replace('4', 'g')], ['hex-key', DEK.slice(2)], ['hex-key', DEK.replace('0', 'z')]])
  bad(`cbc-shape-${shape}-${sha256(plaintext).toString('hex').slice(0, 4)}`, 'wrong-key, wrong-shape', cbc(KEY, plaintext), { shape, note: q(plaintext) });
bad('cbc-shape-text-not-utf8', 'wrong-key, wrong-shape', cbc(KEY, Buffer.from([0x61, 0xff, 0x62])), { shape: 'text' });
bad('cbc-shape-json-not-utf8', 'wrong-key, wrong-shape', cbc(KEY, Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])));
const bare = cbcRaw(KEY, JSONTEXT); bare.write('headless');
bad('cbc-no-magic', 'not-ciphertext', bare.toString('base64'), { note: 'n8n itself opens this, see ParseCBC' });
vector('cbc-no-magic-parse-cbc', C({ op: 'parse-cbc', plaintext: q(JSONTEXT) }), bare.toString('base64'));
vector('cbc-parse-cbc-15-bytes', { expect: 'malformed', op: 'parse-cbc', key: KEY, shape: 'any', note: 'n8n returns an empty string' }, cut(raw, 15));
vector('cbc-parse-cbc-empty', { expect: 'malformed', op: 'parse-cbc', key: KEY, shape: 'any', note: 'n8n returns an empty string' }, '');

// GCM under the instance-key wrap
const G = (o) => ({ expect: 'ok', format: 'gcm', key: KEY, shape: 'hex-key', ...o });
const wrapped = wrapRaw(KEY, DEK);
vector('gcm-published', G({ note: 'n8n-core 2.41.1', plaintext: q(DEK), opened: 'instance key' }),
  'AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4flP1zXc5mMpnrrH5/WUZ3+id/zDIrTgPgajWUgsqIytfcCzrau4bN6YCXIv+e5R4NwM3pHtyTISEkdIn3F9kZIQWHgC0afE7cNHDksTj7Ezk=');
vector('gcm-empty-plaintext', G({ shape: 'any', plaintext: q('') }), wrap(KEY, ''));
vector('gcm-json', G({ shape: 'json-object', plaintext: q(JSONTEXT) }), wrap(KEY, JSONTEXT));
vector('gcm-huge', G({ shape: 'text', plaintext: q('0123456789abcde\n'), repeat: 65536, salt: salt32.toString('hex'),
  sha256: sha256(wrap(KEY, '0123456789abcde\n'.repeat(65536))).toString('hex') }));
for (const [name, key] of Object.entries(KEYS)) vector(`gcm-key-${name}`, G({ key, plaintext: q(DEK) }), wrap(key, DEK));
const urlSalt = Buffer.alloc(32, 0xfb);
const g64 = wrap(KEY, DEK, urlSalt);
vector('gcm-lenient-url-safe', G({ plaintext: q(DEK), canonical: g64 }), g64.replaceAll('+', '-').replaceAll('/', '_'));
vector('gcm-lenient-no-padding', G({ plaintext: q(DEK), canonical: g64 }), g64.replaceAll('=', ''));
vector('gcm-lenient-lines', G({ plaintext: q(DEK), canonical: g64 }), g64.replace(/(.{64})/g, '$1\n'));
vector('gcm-lenient-junk', G({ plaintext: q(DEK), canonical: g64 }), g64.replace(/(.{11})/g, '$1?'));
const gbad = (name, expect, stored, o = {}) => vector(name, G({ expect, ...o }), stored);
gbad('gcm-cut-inside-salt', 'not-ciphertext', cut(wrapped, 20));
gbad('gcm-cut-after-salt', 'malformed', cut(wrapped, 33));
gbad('gcm-cut-inside-tag', 'malformed', cut(wrapped, 48));
gbad('gcm-cut-after-tag', 'wrong-key', cut(wrapped, 49));
gbad('gcm-cut-inside-body', 'wrong-key', cut(wrapped, 60));
gbad('gcm-cut-last-byte', 'wrong-key', cut(wrapped, wrapped.length - 1));
gbad('gcm-byte-appended', 'wrong-key', Buffer.concat([wrapped, Buffer.alloc(1)]).toString('base64'));
gbad('gcm-flip-version', 'not-ciphertext', flip(wrapped, 0, 2));
gbad('gcm-flip-salt', 'wrong-key', flip(wrapped, 1));
gbad('gcm-flip-tag', 'wrong-key', flip(wrapped, 33));
gbad('gcm-flip-body', 'wrong-key', flip(wrapped, 49));
gbad('gcm-flip-last-bit', 'wrong-key', flip(wrapped, -1, 128));
gbad('gcm-wrong-key', 'wrong-key', wrapped.toString('base64'), { key: OTHER });
gbad('gcm-no-key', 'no-key', wrapped.toString('base64'), { key: undefined });
gbad('gcm-wrong-shape', 'wrong-shape', wrap(KEY, 'not hex'));
gbad('gcm-wrong-shape-json', 'wrong-shape', wrap(KEY, '[]'), { shape: 'json-object' });

// Prefixed
const D = `${ID} ${DEK}`;
const P = (o) => ({ expect: 'ok', format: 'prefixed', 'data-key': D, shape: 'json-object', ...o });
const body = gcmRaw(dek, JSONTEXT);
vector('prefixed-published', P({ note: 'n8n-core 2.41.1', plaintext: q(JSONTEXT), opened: `data key "${ID}"` }),
  ID + ':AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fyhJ8eZ/WuJ60f+1njZgBQjG2QvZSlyb4nZGAEraRa1u+Qe0cNhWeV9FQ2NuadUuE');
vector('prefixed-empty-plaintext', P({ shape: 'any', plaintext: q('') }), `${ID}:${gcm(dek, '')}`);
vector('prefixed-text', P({ shape: 'text', plaintext: q('s3cret') }), `${ID}:${gcm(dek, 's3cret')}`);
vector('prefixed-second-key', P({ 'data-key': [`other ${DEK2}`, D], plaintext: q(JSONTEXT) }), `${ID}:${body.toString('base64')}`);
const ID36 = 'A_-' + 'z'.repeat(33);
vector('prefixed-id-36', P({ 'data-key': `${ID36} ${DEK}`, plaintext: q(JSONTEXT) }), `${ID36}:${body.toString('base64')}`);
vector('prefixed-id-1', P({ 'data-key': `a ${DEK}`, plaintext: q(JSONTEXT) }), `a:${body.toString('base64')}`);
vector('prefixed-id-37', { expect: 'not-ciphertext', shape: 'json-object' }, `${ID36}z:${body.toString('base64')}`);
vector('prefixed-id-empty', { expect: 'not-ciphertext', shape: 'json-object' }, `:${body.toString('base64')}`);
vector('prefixed-id-space', { expect: 'not-ciphertext', shape: 'json-object' }, ` ${ID}:${body.toString('base64')}`);
vector('prefixed-id-plus', { expect: 'not-ciphertext', shape: 'json-object' }, `p6gK+geT:${body.toString('base64')}`);
const b64 = gcm(dek, JSONTEXT, urlSalt);
vector('prefixed-lenient-url-safe', P({ plaintext: q(JSONTEXT), canonical: `${ID}:${b64}` }), `${ID}:${b64.replaceAll('+', '-').replaceAll('/', '_')}`);
vector('prefixed-lenient-space', P({ plaintext: q(JSONTEXT), canonical: `${ID}:${b64}` }), `${ID}: ${b64}\n`);
const pbad = (name, expect, stored, o = {}) => vector(name, P({ expect, ...o }), `${ID}:${stored}`);
pbad('prefixed-unknown-id', 'unknown-key-id', body.toString('base64'), { 'data-key': `other ${DEK}` });
pbad('prefixed-no-data-keys', 'unknown-key-id', body.toString('base64'), { 'data-key': undefined, key: KEY });
pbad('prefixed-wrong-key', 'wrong-key', body.toString('base64'), { 'data-key': `${ID} ${DEK2}` });
pbad('prefixed-wrong-shape', 'wrong-shape', body.toString('base64'), { shape: 'pem' });
pbad('prefixed-version-2', 'unsupported-version', flip(body, 0, 3));
pbad('prefixed-cbc-inside', 'unsupported-version', text, { note: 'legal by the algorithm column, never written by n8n' });
pbad('prefixed-cut-all', 'not-ciphertext', '');
pbad('prefixed-cut-after-version', 'malformed', cut(body, 1));
pbad('prefixed-cut-inside-salt', 'malformed', cut(body, 20));
pbad('prefixed-cut-inside-tag', 'malformed', cut(body, 48));
pbad('prefixed-cut-after-tag', 'wrong-key', cut(body, 49));
pbad('prefixed-flip-salt', 'wrong-key', flip(body, 32));
pbad('prefixed-flip-tag', 'wrong-key', flip(body, 48, 128));
pbad('prefixed-flip-body', 'wrong-key', flip(body, 50));

// Data keys and legacy keys as deployment_key stores them
const K = (o) => ({ expect: 'ok', op: 'data-key', key: KEY, ...o });
vector('data-key-gcm', K({ wrap: 'gcm', plaintext: q(DEK) }), wrap(KEY, DEK));
vector('data-key-cbc', K({ wrap: 'cbc', plaintext: q(DEK), note: 'n8n 2.19' }), cbc(KEY, DEK));
vector('data-key-raw', K({ wrap: 'plaintext', plaintext: q(DEK), note: 'n8n 2.18' }), DEK);
vector('data-key-raw-upper-case', K({ wrap: 'plaintext', plaintext: q('ab'.repeat(32)) }), 'AB'.repeat(32));
vector('data-key-raw-no-instance-key', K({ key: undefined, wrap: 'plaintext', plaintext: q(DEK) }), DEK);
vector('data-key-gcm-no-instance-key', K({ expect: 'no-key', key: undefined }), wrap(KEY, DEK));
vector('data-key-gcm-wrong-key', K({ expect: 'wrong-key', key: OTHER }), wrap(KEY, DEK));
vector('data-key-gcm-not-hex', K({ expect: 'wrong-shape' }), wrap(KEY, DEK.slice(1)));
vector('data-key-cbc-wrong-key', K({ expect: 'wrong-key', key: OTHER }), cbc(KEY, DEK));
vector('data-key-cbc-not-hex', K({ expect: 'wrong-key, wrong-shape' }), cbc(KEY, DEK.slice(1)));
vector('data-key-prefixed', K({ expect: 'malformed' }), `${ID}:${gcm(dek, DEK)}`);
vector('data-key-version-2', K({ expect: 'unsupported-version' }), flip(wrapRaw(KEY, DEK), 0, 3));
vector('legacy-key-verbatim-other-long', { expect: 'not-ciphertext', op: 'legacy-key', key: KEY }, Buffer.alloc(64, 7).toString('base64'));
vector('data-key-63-digits', K({ expect: 'not-ciphertext' }), DEK.slice(1));
vector('data-key-empty', K({ expect: 'not-ciphertext' }), '');
const L = (o) => ({ expect: 'ok', op: 'legacy-key', key: KEY, ...o });
vector('legacy-key-gcm', L({ wrap: 'gcm', plaintext: q(KEY) }), wrap(KEY, KEY));
vector('legacy-key-gcm-other', L({ wrap: 'gcm', plaintext: q(OTHER) }), wrap(KEY, OTHER));
vector('legacy-key-gcm-non-ascii', L({ key: KEYS.emoji, wrap: 'gcm', plaintext: q(KEYS.emoji) }), wrap(KEYS.emoji, KEYS.emoji));
vector('legacy-key-cbc', L({ wrap: 'cbc', plaintext: q(KEY) }), cbc(KEY, KEY));
vector('legacy-key-verbatim', L({ wrap: 'plaintext', plaintext: q(KEY) }), KEY);
vector('legacy-key-verbatim-other', L({ expect: 'not-ciphertext' }), OTHER);
vector('legacy-key-wrong-key', L({ expect: 'wrong-key', key: OTHER }), wrap(KEY, KEY));
vector('legacy-key-empty-plaintext', L({ expect: 'wrong-shape' }), wrap(KEY, ''));

// Not ciphertext
for (const [name, s] of Object.entries({
  empty: '', space: ' ', prose: 'The quick brown fox', 'prose-aws': 'AWS credentials', 'prose-gcm-length': 'AWS credentials are stored in the vault of our team',
  'prose-prefixed': 'note:AWS rocks, truly', 'prose-prefixed-long': 'note:' + 'the vault, '.repeat(12), 'prefixed-short': 'note:QUJD', 'low-byte': 'AQ' + '\u0141'.repeat(60), json: '{"a":"U2FsdGVkX1"}', number: '12345',
  jwt: 'eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln', uuid: UUID, 'raw-hex': DEK, url: 'https://example.com/a?b=c', time: '10:30:00',
  email: 'owner@example.test', 'crypto-js-head': 'U2FsdGVkX1', colon: ':', 'unicode': '日本語', base64: Buffer.alloc(99, 2).toString('base64'),
})) vector('none-' + name, { expect: 'not-ciphertext', key: KEY, 'data-key': D, shape: 'any' }, s);

// Derived secrets
for (const [name, key] of Object.entries({ published: KEY, 'one-character': 'k', 'two-characters': 'ab', 'odd-length': 'abcde', ...KEYS,
  'split-pair': 'ab🔐cd', 'pair-at-half': 'a🔐b', 'pairs-only': '🔐🗝🔑', 'generated': 'q83vASNFZ4mrze8BI0VniavN7wEjRWeJ' })) {
  const baseKey = [...Array(key.length).keys()].filter((i) => i % 2 === 0).map((i) => key[i]).join('');
  const b32 = 'abcdefghijklmnopqrstuvwxyz234567';
  const sum = pbkdf2Sync(key, 'n8keep.fingerprint.v1', 600000, 32, 'sha512');
  let bits = '';
  for (const b of sum) bits += b.toString(2).padStart(8, '0');
  const hexSHA = (s) => createHash('sha256').update(s).digest('hex');
  vector('derive-' + name, {
    expect: 'ok', op: 'derive', key: q(key),
    'instance-id': hexSHA(key.slice(Math.round(key.length / 2))),
    'signing-jwt': hexSHA(baseKey),
    'signing-hmac': hexSHA('hmac-signature:' + key),
    'signing-binary-data': createHash('sha256').update('url-signing:' + key).digest('base64'),
    telegram: createHmac('sha256', key).update('telegram:agent-1:cred-2').digest('hex'),
    'wrap-key': hexSHA(key),
    fingerprint: 'n8k1-' + [...Array(16).keys()].map((i) => b32[parseInt(bits.slice(5 * i, 5 * i + 5), 2)]).join(''),
  });
}
console.log(count, 'vectors');

// Node's base64 decoder, by a fixed pseudo-random walk
let seed = 1;
const rnd = (n) => { seed = (seed * 1103515245 + 12345) % 2147483648; return Math.floor(seed / 65536) % n; };
const parts = ['A', 'Q', 'z', '9', '+', '/', '-', '_', '=', '\n', ' ', '!', 'é', '日', '\u0141', '\u013d', '🔐', '\0', '==', 'YWJj', 'ZGVm', ':', '\ufb00'];
const lines = [];
for (let i = 0; i < 1000; i++) {
  let s = '';
  for (let n = rnd(12); n > 0; n--) s += parts[rnd(i % 2 ? parts.length : 9)];
  lines.push(q([s, Buffer.from(s, 'base64').toString('hex')]));
}
writeFileSync(new URL('./node-base64.jsonl', import.meta.url), lines.join('\n') + '\n');
