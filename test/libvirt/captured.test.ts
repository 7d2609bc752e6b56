// Every message that src/libvirt knows, against bytes that virsh and libvirtd 9.0 really exchanged (capture.ts): what we would send
// is what virsh sent, byte by byte, and what libvirtd answered is read as what the scene was made of.
import { expect, test } from 'vitest'
import { KEEPALIVE, PROGRAM, readHeader, startFrame, finishFrame, Type, VERSION } from '../../src/libvirt/frame.ts'
import { events } from '../../src/libvirt/procedures/events.ts'
import { streamsOf } from '../../src/libvirt/streams.ts'
import { readRemoteError } from '../../src/libvirt/structs.ts'
import { XdrReader } from '../../src/libvirt/xdr.ts'
import { captured, procedures } from './captured.ts'
import { names, xml } from './captured-scene.ts'

const all = captured()
const bytes = (hex: string) => Buffer.from(hex, 'hex')
const NOTHING = undefined

const off = { name: names.domain, uuid: names.domain_uuid, id: -1 }
const on = { ...off, id: 1 }
const net = { name: names.network, uuid: names.network_uuid }
const pool = { name: names.pool, uuid: names.pool_uuid }
const path = `${all.dir}/capture/pool`
const volume = { pool: names.pool, name: names.volume, key: `${path}/${names.volume}` }
const copy = { pool: names.pool, name: 'copy', key: `${path}/copy` }
const xmlOf = (element: string, ...holds: string[]) => ({
  asymmetricMatch: (x: unknown) =>
    typeof x === 'string' &&
    x.startsWith(`<${element}`) &&
    x.endsWith(`</${element.split(' ')[0]}>\n`) &&
    holds.every((h) => x.includes(h)),
})

/** What was asked, in our words, and what was answered. */
const expected: Record<string, [args: readonly unknown[], value: unknown]> = {
  AUTH_LIST: [[], [0]],
  AUTH_POLKIT: [[], true],
  CONNECT_OPEN: [['qemu:///system', 0], NOTHING],
  CONNECT_CLOSE: [[], NOTHING],
  CONNECT_SUPPORTS_FEATURE: [[10], true],
  CONNECT_GET_TYPE: [[], 'QEMU'],
  CONNECT_GET_VERSION: [[], 7_002_022],
  CONNECT_GET_LIB_VERSION: [[], 9_000_000],
  CONNECT_GET_HOSTNAME: [[], expect.stringMatching(/^[\w.-]+$/)],
  CONNECT_GET_URI: [[], 'test:///default'],
  CONNECT_GET_CAPABILITIES: [[], xmlOf('capabilities', '<arch>i686</arch>')],
  CONNECT_GET_DOMAIN_CAPABILITIES: [
    [{ arch: 'x86_64', machine: 'isapc', virt_type: 'qemu' }, 0],
    xmlOf('domainCapabilities', '<machine>isapc</machine>', '<domain>qemu</domain>'),
  ],
  // the test driver's host, as its source makes it up
  NODE_GET_INFO: [
    [],
    {
      cpu_model: 'i686',
      memory_bytes: 3 * 2 ** 30,
      cpus: 16,
      mhz: 1400,
      numa_nodes: 2,
      sockets: 2,
      cores: 2,
      threads: 2,
    },
  ],
  NODE_GET_FREE_MEMORY: [[], expect.any(Number)],

  DOMAIN_OPEN_CONSOLE: [[on, null, 0], NOTHING],
  DOMAIN_DEFINE_XML_FLAGS: [[xml.domain, 1], off],
  DOMAIN_CREATE_WITH_FLAGS: [[off, 1], on],
  DOMAIN_CREATE_XML: [[xml.test, 0], { ...off, id: 2 }],
  DOMAIN_LOOKUP_BY_NAME: [[names.domain], off],
  DOMAIN_LOOKUP_BY_UUID: [[names.domain_uuid], on],
  DOMAIN_LOOKUP_BY_ID: [[1], on],
  DOMAIN_GET_STATE: [[on, 0], { state: 3, reason: 1 }],
  DOMAIN_GET_INFO: [
    [on],
    { state: 1, max_memory_bytes: 32 * 2 ** 20, memory_bytes: 32 * 2 ** 20, vcpus: 1, cpu_time_ns: expect.any(Number) },
  ],
  DOMAIN_GET_XML_DESC: [[off, 2], xmlOf("domain type='qemu'", names.domain_uuid, names.mac)],
  DOMAIN_GET_AUTOSTART: [[on], false],
  DOMAIN_SET_AUTOSTART: [[on, true], NOTHING],
  DOMAIN_IS_ACTIVE: [[on], true],
  DOMAIN_IS_PERSISTENT: [[on], true],
  DOMAIN_SUSPEND: [[on], NOTHING],
  DOMAIN_RESUME: [[on], NOTHING],
  DOMAIN_REBOOT: [[on, 1], NOTHING],
  DOMAIN_RESET: [[on, 0], NOTHING],
  DOMAIN_SHUTDOWN_FLAGS: [[on, 1], NOTHING],
  DOMAIN_DESTROY_FLAGS: [[{ ...on, id: 2 }, 1], NOTHING],
  // virsh leaves managed_save out where there is none
  DOMAIN_UNDEFINE_FLAGS: [[off, 4], NOTHING],
  DOMAIN_MANAGED_SAVE: [[on, 0], NOTHING],
  DOMAIN_HAS_MANAGED_SAVE_IMAGE: [[on, 0], false],
  DOMAIN_MANAGED_SAVE_REMOVE: [[off, 0], NOTHING],
  DOMAIN_SET_METADATA: [[on, 2, '<job id="1"/>', 'v', names.namespace, 2], NOTHING],
  DOMAIN_GET_METADATA: [[on, 2, names.namespace, 2], '<job id="1"/>'],
  DOMAIN_INTERFACE_ADDRESSES: [
    [on, 0, 0],
    [
      {
        name: 'vnet0',
        mac: names.mac,
        addresses: [{ family: 'ipv4', address: expect.stringMatching(/^192\.0\.2\.(1\d|20)$/), prefix: 24 }],
      },
    ],
  ],
  CONNECT_LIST_ALL_DOMAINS: [[3], [on]],
  CONNECT_GET_ALL_DOMAIN_STATS: [
    [[on], 1 | 2 | 4, 0],
    [
      {
        domain: on,
        values: expect.objectContaining({
          'state.state': 1,
          'state.reason': 5,
          'cpu.time': expect.any(Number),
          'balloon.maximum': 32 * 1024,
        }),
      },
    ],
  ],

  NETWORK_DEFINE_XML: [[xml.network], net],
  NETWORK_DEFINE_XML_FLAGS: [[xml.network, 1], net],
  NETWORK_CREATE: [[net], NOTHING],
  NETWORK_CREATE_XML: [[xml.network], net],
  NETWORK_DESTROY: [[net], NOTHING],
  NETWORK_UNDEFINE: [[net], NOTHING],
  NETWORK_GET_XML_DESC: [[net, 0], xmlOf('network', names.network_uuid, "<bridge name='vbr-lan'")],
  NETWORK_GET_AUTOSTART: [[net], false],
  NETWORK_SET_AUTOSTART: [[net, true], NOTHING],
  NETWORK_GET_BRIDGE_NAME: [[net], 'vbr-lan'],
  NETWORK_LOOKUP_BY_NAME: [[names.network], net],
  NETWORK_LOOKUP_BY_UUID: [[names.network_uuid], net],
  NETWORK_IS_ACTIVE: [[net], true],
  NETWORK_IS_PERSISTENT: [[net], true],
  NETWORK_GET_DHCP_LEASES: [
    [net, null, 0],
    [
      {
        interface: 'vbr-lan',
        expires_s: expect.any(Number),
        family: 'ipv4',
        mac: names.mac,
        iaid: null,
        address: expect.stringMatching(/^192\.0\.2\.(1\d|20)$/),
        prefix: 24,
        hostname: null,
        client_id: `01:${names.mac}`,
      },
    ],
  ],
  CONNECT_LIST_ALL_NETWORKS: [[3], [net]],

  STORAGE_POOL_DEFINE_XML: [[xml.pool(path), 0], pool],
  STORAGE_POOL_CREATE_XML: [[xml.pool('/nowhere'), 0], pool],
  STORAGE_POOL_CREATE: [[pool, 0], NOTHING],
  STORAGE_POOL_BUILD: [[pool, 0], NOTHING],
  STORAGE_POOL_DESTROY: [[pool], NOTHING],
  STORAGE_POOL_DELETE: [[pool, 0], NOTHING],
  STORAGE_POOL_UNDEFINE: [[pool], NOTHING],
  STORAGE_POOL_REFRESH: [[pool, 0], NOTHING],
  STORAGE_POOL_LOOKUP_BY_NAME: [[names.pool], pool],
  STORAGE_POOL_LOOKUP_BY_UUID: [[names.pool_uuid], pool],
  STORAGE_POOL_LOOKUP_BY_VOLUME: [[volume], pool],
  STORAGE_POOL_GET_INFO: [
    [pool],
    {
      state: 2,
      capacity_bytes: expect.any(Number),
      allocation_bytes: expect.any(Number),
      available_bytes: expect.any(Number),
    },
  ],
  STORAGE_POOL_GET_XML_DESC: [[pool, 0], xmlOf("pool type='dir'", names.pool_uuid, `<path>${path}</path>`)],
  STORAGE_POOL_GET_AUTOSTART: [[pool], false],
  STORAGE_POOL_SET_AUTOSTART: [[pool, true], NOTHING],
  STORAGE_POOL_IS_ACTIVE: [[pool], true],
  STORAGE_POOL_IS_PERSISTENT: [[pool], true],
  STORAGE_POOL_LIST_ALL_VOLUMES: [[pool, 0], expect.toSatisfy((v) => v.length === 2)],
  CONNECT_LIST_ALL_STORAGE_POOLS: [[3], [pool]],
  STORAGE_VOL_CREATE_XML: [[pool, xml.volume(names.volume), 0], volume],
  STORAGE_VOL_CREATE_XML_FROM: [[pool, xml.volume('copy'), volume, 0], copy],
  STORAGE_VOL_DELETE: [[volume, 0], NOTHING],
  STORAGE_VOL_LOOKUP_BY_NAME: [[pool, names.volume], volume],
  STORAGE_VOL_LOOKUP_BY_KEY: [[volume.key], volume],
  STORAGE_VOL_LOOKUP_BY_PATH: [[volume.key], volume],
  STORAGE_VOL_GET_INFO: [[volume], { type: 0, capacity_bytes: 2 ** 20, allocation_bytes: 2 ** 20 }],
  STORAGE_VOL_GET_XML_DESC: [[volume, 0], xmlOf("volume type='file'", `<name>${names.volume}</name>`)],
  STORAGE_VOL_GET_PATH: [[copy], copy.key],
  STORAGE_VOL_RESIZE: [[volume, 2 * 2 ** 20, 0], NOTHING],

  CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY: [[0, null], 0],
  CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY: [[0], NOTHING],
}

test('there is one exchange for each procedure, and no number is used twice', () => {
  expect(Object.keys(all.calls).sort()).toEqual(procedures.map((p) => p.name).sort())
  expect(Object.keys(expected).sort()).toEqual(procedures.map((p) => p.name).sort())
  expect(new Set(procedures.map((p) => p.number)).size).toBe(procedures.length)
  expect(Object.keys(all.events).sort()).toEqual(events.map((e) => e.kind).sort())
})

test.each(procedures.map((p) => [p.name, p] as const))('%s', (name, p) => {
  const { call, reply, step } = all.calls[name]!
  const [args, value] = expected[name]!
  const asked = readHeader(bytes(call))
  expect(asked, step).toEqual({
    program: PROGRAM,
    version: VERSION,
    procedure: p.number,
    type: Type.call,
    serial: asked.serial,
    status: 0,
  })
  expect(readHeader(bytes(reply))).toEqual({ ...asked, type: Type.reply })

  const writer = startFrame()
  p.write(writer, ...args)
  const ours = finishFrame(writer, { program: PROGRAM, procedure: p.number, type: Type.call, serial: asked.serial })
  expect(ours.toString('hex')).toBe(call)

  const reader = new XdrReader(bytes(reply), 28)
  const got = p.read(reader)
  reader.end()
  expect(got).toEqual(value)
})

const when = (kind: string) => new XdrReader(bytes(all.events[kind as keyof typeof all.events]!.frame), 28)

test.each([
  ['lifecycle', { kind: 'lifecycle', domain: off, event: 'defined', detail: 'added' }],
  ['reboot', { kind: 'reboot', domain: on }],
  ['device_added', { kind: 'device_added', domain: on, alias: 'ua-tablet' }],
  ['device_removed', { kind: 'device_removed', domain: on, alias: 'ua-tablet' }],
  ['agent', { kind: 'agent', domain: on, state: 'disconnected', reason: 'domain_started' }],
  ['metadata', { kind: 'metadata', domain: on, type: 'element', uri: names.namespace }],
])('the event %s', (kind, value) => {
  const message = events.find((e) => e.kind === kind)!
  const header = readHeader(bytes(all.events[message.kind]!.frame))
  expect(header).toEqual({
    program: PROGRAM,
    version: VERSION,
    procedure: message.number,
    type: Type.message,
    serial: 1,
    status: 0,
  })
  const reader = when(kind)
  expect(message.read(reader)).toEqual({ callback: message.id, event: value })
  reader.end()
})

test('refusals carry code, domain, level and a message', () => {
  const read = all.refusals.map((r) => {
    expect(readHeader(bytes(r.reply)).status).toBe(1)
    const reader = new XdrReader(bytes(r.reply), 28)
    const error = readRemoteError(reader)
    reader.end()
    return { procedure: r.procedure, ...error }
  })
  const text = (part: string) => expect.stringContaining(part)
  expect(read).toEqual(
    expect.arrayContaining([
      { procedure: 'DOMAIN_LOOKUP_BY_NAME', code: 42, domain: 12, level: 2, message: text('Domain not found') },
      { procedure: 'CONNECT_GET_DOMAIN_CAPABILITIES', code: 8, domain: 10, level: 2, message: text('virttype') },
      { procedure: 'DOMAIN_OPEN_CONSOLE', code: 9, domain: 10, level: 2, message: text('Active console session') },
      { procedure: 'DOMAIN_REBOOT', code: 86, domain: 10, level: 2, message: text('Guest agent is not responding') },
      {
        procedure: 'DOMAIN_DEFINE_XML_FLAGS',
        code: 9,
        domain: 20,
        level: 2,
        message: text('already exists with uuid'),
      },
      { procedure: 'DOMAIN_DEFINE_XML_FLAGS', code: 92, domain: 5, level: 2, message: text('nonsense') },
      { procedure: 'DOMAIN_DESTROY_FLAGS', code: 55, domain: 20, level: 2, message: text('not running') },
    ]),
  )
})

const text = async (stream: AsyncIterable<Buffer>): Promise<string> => {
  const parts: Buffer[] = []
  for await (const b of stream) parts.push(b)
  return Buffer.concat(parts).toString()
}

test('parts of streams: what we send is what virsh sent, and what the daemon sent is taken as what it is', async () => {
  const opened = readHeader(bytes(all.calls.DOMAIN_OPEN_CONSOLE!.call))
  const sent: string[] = []
  const streams = streamsOf({
    where: '',
    write(b: Buffer, done?: () => void) {
      sent.push(b.toString('hex'))
      done?.()
    },
    pause() {},
  } as never)
  const open = (like: string) => {
    const h = readHeader(bytes(all.streams[like]!.frame))
    expect(h).toMatchObject({ program: PROGRAM, version: VERSION, procedure: opened.procedure, type: Type.stream })
    const { stream, end } = streams.make('DOMAIN_OPEN_CONSOLE')
    streams.begin(h.serial, h.procedure, end)
    return { stream, hear: (what: string) => heard(what, h.serial) }
  }
  const heard = (what: string, serial: number) => {
    const frame = bytes(all.streams[what]!.frame)
    frame.writeUInt32BE(serial, 20)
    streams.take(frame, readHeader(frame))
  }

  const a = open('client data')
  await a.stream.write(Buffer.from('x'))
  a.hear('daemon data')
  a.hear('daemon eof')
  const finished = a.stream.finish()
  a.hear('daemon finish')
  await finished
  expect(await text(a.stream)).toBe('\u001b')
  expect(sent.splice(0)).toEqual([all.streams['client data']!.frame, all.streams['client finish']!.frame])

  const b = open('client abort')
  const aborted = b.stream.abort()
  b.hear('daemon finish') // an abort is confirmed in the same way
  await aborted
  expect(await text(b.stream)).toBe('')
  expect(sent).toEqual([all.streams['client abort']!.frame])
  expect(() => b.hear('daemon data')).toThrow('which is not open')
})

test.each([
  ['client 1', 1],
  ['client 2', 2],
  ['daemon 1', 1],
  ['daemon 2', 2],
])('the keepalive of %s is what we send and expect', (who, procedure) => {
  const ours = finishFrame(startFrame(), { program: KEEPALIVE, procedure, type: Type.message, serial: 0 })
  expect(ours.toString('hex')).toBe(all.keepalive[who])
})
