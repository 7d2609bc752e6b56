// Whether there is room for a VM: what is counted, what is told, and that many who ask at once get no more than there is.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdir, readdir, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { build } from 'esbuild'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { keepConnected, type Link, type Session } from '../../src/libvirt/index.ts'
import { identify } from '../../src/process/index.ts'
import { type AdmissionOptions, openAdmission, type Want } from '../../src/vm/admission.ts'
import { type Announced, openPromises } from '../../src/vm/promises.ts'
import type { VmRecord } from '../../src/vm/index.ts'
import { testDomain } from '../libvirt/scene.ts'
import { isRoot, type Libvirtd, privateLibvirtd } from '../support/libvirtd.ts'
import { type TempDir, tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

const MIB = 2 ** 20
const GIB = 2 ** 30

const want = (name: string, o: Partial<Want> = {}): Want => ({
  uuid: `uuid-${name}`,
  name,
  vcpus: 1,
  memory_bytes: 16 * MIB,
  disk_bytes: 0,
  path: '/tmp',
  ...o,
})
const record = (name: string, o: Partial<VmRecord> = {}): VmRecord =>
  ({
    uuid: `uuid-${name}`,
    name,
    desired: 'running',
    vcpus: 1,
    memory_bytes: 16 * MIB,
    disks: [],
    ...o,
  }) as unknown as VmRecord

test('of two that announce something at the same time, at least one has seen the other, and in the end exactly one', async () => {
  await using dir = await tempDir()
  for (let round = 0; round < 8; round++) {
    const promises = openPromises(join(dir.path, String(round)))
    const names = Array.from({ length: 24 }, (_, i) => `n${i}`)
    const look = async (x: Announced) => new Set((await x.before()).map((p) => p.name))
    const made = await Promise.all(
      names.map(async (n) => {
        const mine = await promises.announce({ ...want(n), dev: 0 })
        return { mine, seen: await look(mine) }
      }),
    )
    const late = await Promise.all(made.map(({ mine }) => look(mine)))
    for (const [i, a] of names.entries()) {
      for (const [j, b] of names.entries()) {
        if (i >= j) continue
        // one whose number is still low is seen, and takes a higher one
        expect(made[i]!.seen.has(b) || made[j]!.seen.has(a), `${a} and ${b}`).toBe(true)
        expect(late[i]!.has(b) !== late[j]!.has(a), `${a} and ${b}, later`).toBe(true)
      }
    }
  }
})

describe.runIf(isRoot)('admission', () => {
  let daemon: Libvirtd
  let link: Link
  let s: Session
  let dir: TempDir
  beforeAll(async () => {
    daemon = await privateLibvirtd()
    dir = await tempDir()
    link = keepConnected(daemon.uri('test:///default'))
    s = await link.session()
    // the test driver's own guest takes more memory than its host has: 16 processors and 3 GiB
    await s.control.domains.destroy((await s.query.domains.byName('test'))!)
  }, 600_000)
  afterAll(async () => {
    await link?.close()
    await daemon?.[Symbol.asyncDispose]()
    await dir?.[Symbol.asyncDispose]()
  })

  let rooms = 0
  /** a host of its own as far as promises go */
  function open(records: VmRecord[] = [], config: Partial<ReturnType<AdmissionOptions['config']>> = {}) {
    const room = join(dir.path, `promises-${rooms++}`)
    const admission = openAdmission({
      dir: room,
      vmDir: dir.path,
      config: () => ({ cpu_overcommit: 4, reserved: { vcpus: 0, memory: 0, disk: 0 }, ...config }),
      records: async () => records,
    })
    return { room, ...admission }
  }
  const running = async (name: string, memory_mib: number) => {
    const xml = testDomain(name).replace("<memory unit='MiB'>8<", `<memory unit='MiB'>${memory_mib}<`)
    const d = await s.control.domains.define(xml)
    await s.control.domains.create(d)
    return {
      domain: d,
      [Symbol.asyncDispose]: async () => {
        await s.control.domains.destroy(d).catch(() => {})
        await s.control.domains.undefine(d)
      },
    }
  }

  test('reports what the host has, what is reserved, and who takes it, foreign domains too; those that are off take nothing', async () => {
    await using _big = await running('foreign-big', 512)
    await using off = await running('foreign-off', 1024)
    await s.control.domains.destroy(off.domain)
    const a = open([record('due', { memory_bytes: 64 * MIB }), record('off', { desired: 'stopped' })], {
      reserved: { vcpus: 4, memory: 256 * MIB, disk: 0 },
    })
    expect(await a.report(s)).toMatchObject({
      vcpus: { total: 16, reserved: 4, overcommit: 4, limit: 48, taken: 2, free: 46 },
      memory: {
        total_bytes: 3 * GIB,
        reserved_bytes: 256 * MIB,
        taken_bytes: 576 * MIB,
        free_bytes: 3 * GIB - 832 * MIB,
      },
      takers: [
        { name: 'foreign-big', memory_bytes: 512 * MIB, why: 'runs' },
        { name: 'due', memory_bytes: 64 * MIB, why: 'due' },
      ],
    })
  })

  test('a refusal says what is wanted, what is free, what is reserved, and who has the most; nothing stays behind', async () => {
    await using _db = await running('db', 1536)
    await using _web = await running('web', 512)
    const a = open([], { reserved: { vcpus: 0, memory: 512 * MIB, disk: 0 } })
    const refused = await a.admit(want('more', { memory_bytes: GIB }), s).catch((e) => e)
    expect(refused).toMatchObject({ name: 'VmError', code: 'vm-resources', transient: true, phase: 'admit' })
    expect(refused.message).toBe(
      'There is no room for the VM "more": it wants 1.0 GiB of memory, of which 512 MiB are free (the host has 3.0 GiB, ' +
        '512 MiB are reserved by vm.reserved.memory, 2 VMs take 2.0 GiB, most of it "db" 1.5 GiB, "web" 512 MiB).',
    )
    expect(refused.hint).toMatch(/"db"/)
    const never = await a.admit(want('never', { memory_bytes: 4 * GIB, vcpus: 100 }), s).catch((e) => e)
    expect(never).toMatchObject({ transient: false, message: expect.stringMatching(/memory.*; and 100 virtual proc/) })
    expect(await readdir(a.room)).toEqual([])
  })

  test('what was promised counts until it is given back, and the VM itself never against itself', async () => {
    const a = open()
    await using _base = await running('one', 1024)
    {
      await using _mine = await a.admit(want('two', { memory_bytes: 1536 * MIB }), s)
      await expect(a.admit(want('three', { memory_bytes: GIB }), s)).rejects.toMatchObject({
        message: expect.stringContaining('"two" 1.5 GiB (which is being started)'),
      })
      // a second attempt of the same VM wants nothing that it has not
      await using _again = await a.admit(want('two', { memory_bytes: 1536 * MIB }), s)
      expect((await a.report(s)).memory.taken_bytes).toBe(2560 * MIB)
    }
    await using _later = await a.admit(want('three', { memory_bytes: GIB }), s)
    // it runs by now, and its promise was not given back yet: counted once
    await using _runs = await running('three', 1024)
    const { takers, memory } = await a.report(s)
    expect(takers.length).toBe(3) // by uuid, and the promise's is made up here
    expect(memory.taken_bytes).toBe(3 * GIB)
  })

  test('disks: what is free, less what other disks may still grow by; what was written already is not wanted twice', async () => {
    const thin = join(dir.path, 'thin.raw')
    await writeFile(thin, '')
    await truncate(thin, 8 * MIB)
    const half = join(dir.path, 'half.raw')
    await writeFile(half, Buffer.alloc(4 * MIB, 1))
    await truncate(half, 8 * MIB)
    const disk = (path: string) => ({ id: 'boot', path, format: 'raw' as const, size_bytes: 8 * MIB })
    const a = open([record('thin', { disks: [disk(thin)] }), record('half', { disks: [disk(half)] })])
    const { disk: d } = await a.report(s)
    expect(d.growth_bytes).toBe(12 * MIB)
    expect(d.free_bytes).toBe(d.available_bytes - 12 * MIB)
    const refused = await a
      .admit(want('huge', { disk_bytes: 2 ** 60, path: join(dir.path, 'not/yet') }), s)
      .catch((e) => e)
    expect(refused).toMatchObject({ transient: false, message: expect.stringContaining('other VMs may still grow by') })
    expect(refused.message).toContain(`on the filesystem of ${dir.path}`)
    // of "half" four of its eight MiB are written
    const b = open([record('half', { disks: [disk(half)] })], {
      reserved: { vcpus: 0, memory: 0, disk: d.total_bytes },
    })
    expect((await b.admit(want('half', { disk_bytes: 8 * MIB, path: dir.path }), s).catch((e) => e)).message).toContain(
      'wants 4.0 MiB on the filesystem',
    )
    await using _nothing = await b.admit(want('half', { disk_bytes: 4 * MIB, path: dir.path }), s)
  })

  test('promises of processes that are gone, or whose number another process has now, are dropped', async () => {
    const a = open()
    await mkdir(a.room, { recursive: true })
    const me = identify(process.pid)!
    const put = async (n: number, maker: object) => {
      const file = `${String(n).padStart(12, '0')}-1-1-00000000.json`
      const p = { ...want(`stale-${n}`, { memory_bytes: 3 * GIB }), dev: 0, maker, at: new Date().toISOString() }
      await writeFile(join(a.room, file), JSON.stringify(p))
      await writeFile(join(a.room, `${file}.admitted`), '')
    }
    const ended = spawn('true')
    const gone = identify(ended.pid!) ?? { ...me, pid: ended.pid! }
    await new Promise((r) => ended.once('close', r))
    await put(1, gone)
    await put(2, { ...me, start_ticks: me.start_ticks - 1 }) // our number, another process
    await put(3, { ...me, boot_id: 'before the restart of the host' })
    await writeFile(join(a.room, `${'4'.padStart(12, '0')}-1-1-00000000.json`), '') // of a host that lost its power
    await writeFile(join(a.room, `.new-${ended.pid}-1-00000000`), 'half written')
    {
      await using _mine = await a.admit(want('fits', { memory_bytes: 3 * GIB }), s)
      expect((await readdir(a.room)).filter((f) => f.endsWith('.json')).length).toBe(1)
    }
    expect(await readdir(a.room)).toEqual([])
  })

  test('one that asked before and does not know yet is waited for: what it is refused is there for the next', async () => {
    const a = open()
    const first = await openPromises(a.room).announce({ ...want('undecided', { memory_bytes: 3 * GIB }), dev: 0 })
    const second = a.admit(want('second', { memory_bytes: 3 * GIB }), s)
    const early = await Promise.race([
      second.then(() => 'admitted'),
      new Promise((r) => setTimeout(() => r('waits'), 300)),
    ])
    expect(early).toBe('waits')
    await first[Symbol.asyncDispose]()
    await (await second)[Symbol.asyncDispose]()
  })

  test('50 processes at once want what fits 10: 10 get it', async () => {
    const a = open()
    const uri = daemon.uri('test:///default')
    const children: ChildProcess[] = []
    // one file starts five times as fast as all of its sources
    const program = join(dir.path, 'admission.mjs')
    const entryPoints = [join(import.meta.dirname, 'admission.process.ts')]
    await build({ entryPoints, outfile: program, bundle: true, format: 'esm', platform: 'node', logLevel: 'warning' })
    try {
      const talks = Array.from({ length: 50 }, (_, n) => {
        // 16 processors, without overcommit
        const argv = [program, uri, a.room, dir.path, String(n), '1.6']
        const child = spawn(process.execPath, argv, { stdio: ['pipe', 'pipe', 'inherit'] })
        children.push(child)
        return { child, lines: createInterface({ input: child.stdout! })[Symbol.asyncIterator]() }
      })
      const said = () => Promise.all(talks.map(async (t) => String((await t.lines.next()).value)))
      expect(new Set(await said())).toEqual(new Set(['ready']))
      for (const { child } of talks) child.stdin!.write('go\n')
      const answers = await said()
      expect(answers.map((x) => x.slice(0, 20)).sort()).toEqual([
        ...Array<string>(10).fill('admitted'),
        ...Array<string>(40).fill('refused vm-resources'),
      ])
      expect((await a.report(s)).takers.length).toBe(10)
      // killed, they give it back without being asked
      for (const c of children) c.kill('SIGKILL')
      await until('they are gone', () => children.every((c) => c.exitCode !== null || c.signalCode !== null))
      expect((await a.report(s)).takers).toEqual([])
    } finally {
      for (const c of children) c.kill('SIGKILL')
    }
  }, 600_000)
})
