// vms.json: nothing that was written is lost, whatever happens to whoever writes; and nothing that the file may say stops anybody.
import { type ChildProcess, spawn } from 'node:child_process'
import { cp, link, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { execa } from 'execa'
import fc from '../support/fc.ts'
import { describe, expect, test } from 'vitest'
import { uuidOfVm } from '../../src/domain/index.ts'
import { readRegistryFile } from '../../src/vm/registry-file.ts'
import { registrySchema } from '../../src/vm/registry-schema.ts'
import { readRegistry, registryFaults } from '../../src/vm/registry.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { HOST, INSTANCE, open, plusOne, record } from './records.ts'

const node = resolve(import.meta.dirname, '../../node_modules/.bin/node')
const writer = join(import.meta.dirname, 'registry-writer.process.ts')
const file = (dir: string) => join(dir, 'vms.json')
const text = (dir: string) => readFile(file(dir), 'utf8')
/** leftovers of writers, and what was set aside */
const others = async (dir: string) =>
  (await readdir(dir)).filter((f) => f !== 'vms.json' && f !== 'vms.json.bak').sort()
const count = async (dir: string, name: string) =>
  Number((await readRegistry(dir)).find((r) => r.name === name)?.metadata.n ?? 0)

describe('the registry', () => {
  test('keeps entries, with the file before as backup, and writes nothing for no change', async () => {
    await using dir = await tempDir()
    const r = await open(dir.path)
    expect(await r.get('web')).toBeUndefined()
    expect(await readdir(dir.path)).toEqual([])
    await r.update('web', () => record('web'))
    const first = await text(dir.path)
    const entry = (await r.get('web'))!
    expect(entry).toEqual({ ...record('web'), updated_at: entry.updated_at })
    expect(Date.parse(entry.updated_at)).toBeGreaterThan(Date.parse(record('web').updated_at))
    expect(await r.update('web', (x) => ({ ...x! }))).toEqual(entry)
    expect(await text(dir.path)).toBe(first)

    await r.update('db', () =>
      record('db', { doing: { action: 'create', phase: 'disks', job: 'j', epoch: 2, since: entry.created_at } }),
    )
    expect(await readFile(`${file(dir.path)}.bak`, 'utf8')).toBe(first)
    expect(registrySchema.parse(JSON.parse(await text(dir.path)))).toMatchObject({
      schema: 1,
      revision: 2,
      instance: INSTANCE,
      host: HOST,
    })
    // what was given is a copy
    ;(await r.get('web'))!.desired = 'stopped'
    expect((await r.get('web'))!.desired).toBe('running')
    await expect(
      r.update('web', () => {
        throw new Error('superseded')
      }),
    ).rejects.toThrow('superseded')
    expect((await r.all()).map((x) => x.name)).toEqual(['db', 'web'])
    expect(await r.update('db', () => undefined)).toBeUndefined()
    expect((await (await open(dir.path)).all()).map((x) => x.name)).toEqual(['web'])
    expect(await others(dir.path)).toEqual([])
    expect(r.problems()).toEqual([])
  })

  test('fields of a later version stay', async () => {
    await using dir = await tempDir()
    await (await open(dir.path)).update('web', () => record('web'))
    const raw = JSON.parse(await text(dir.path))
    raw.later = { a: 1 }
    raw.vms.web.colour = 'red'
    raw.vms.web.order.why = 'because'
    await writeFile(file(dir.path), JSON.stringify(raw))
    const r = await open(dir.path)
    await r.update('web', (x) => ({ ...x!, desired: 'stopped' }))
    expect(JSON.parse(await text(dir.path))).toMatchObject({
      later: { a: 1 },
      vms: { web: { colour: 'red', order: { why: 'because' }, desired: 'stopped' } },
    })
  })

  test('a process sees what others wrote, and a name cannot be that of its own files', async () => {
    await using dir = await tempDir()
    const [a, b] = [await open(dir.path), await open(dir.path)]
    await a.update('web', () => record('web'))
    expect((await b.get('web'))!.name).toBe('web')
    await b.change((vms) => {
      vms.set('db', record('db'))
      vms.delete('web')
    })
    expect((await a.all()).map((r) => r.name)).toEqual(['db'])
    for (const name of ['vms.json', 'vms.json.bak', 'vms@h1.json'])
      await expect(a.update(name, () => record(name))).rejects.toMatchObject({ code: 'vm-invalid' })
    await expect(a.update('db', (r) => ({ ...r!, name: 'other' }))).rejects.toThrow('cannot be given the name')
  })

  test("another instance's registry, or a folder that cannot be used, is an error with a sentence", async () => {
    await using dir = await tempDir()
    await (await open(dir.path)).update('web', () => record('web'))
    const before = await text(dir.path)
    await expect(open(dir.path, { instance: 'there' })).rejects.toMatchObject({
      code: 'registry',
      message: `The registry of VMs ${file(dir.path)} belongs to the instance "here", not to "there".`,
    })
    expect(await text(dir.path)).toBe(before)
    await writeFile(join(dir.path, 'plain'), '')
    await expect(open(join(dir.path, 'plain/below'))).rejects.toMatchObject({ code: 'registry', transient: true })
    const r = await open(dir.path)
    await rm(dir.path, { recursive: true })
    await expect(r.update('web', plusOne('web'))).rejects.toMatchObject({ code: 'registry', transient: true })
    await mkdir(dir.path)
  })

  test('hosts that share a folder each have a registry, and see whose a name is', async () => {
    await using dir = await tempDir()
    const mine = await open(dir.path)
    await mine.update('web', () => record('web'))
    await (await open(join(dir.path, 'x'), { host: 'h2' })).update('db', () => record('db', { host: 'h2' }))
    await link(join(dir.path, 'x/vms.json'), join(dir.path, 'vms@h2.json'))
    expect([await mine.elsewhere('db'), await mine.elsewhere('web')]).toEqual(['h2', undefined])
    expect((await readRegistry(dir.path)).map((r) => r.name)).toEqual(['db', 'web'])
  })
})

describe('several writers', { timeout: 600_000 }, () => {
  interface Writer {
    child: ChildProcess
    /** what it said it has done */
    said(): string[]
    ended: Promise<void>
  }
  function start(argv: readonly string[], o: { prefix?: readonly string[] } = {}): Writer {
    const [program, ...rest] = [...(o.prefix ?? []), node, writer, ...argv]
    const child = spawn(program!, rest, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, UV_THREADPOOL_SIZE: '1' },
    })
    let out = ''
    child.stdout!.on('data', (d: Buffer) => (out += d.toString()))
    let complaints = ''
    child.stderr!.on('data', (d: Buffer) => (complaints += d.toString()))
    const ended = new Promise<void>((resolve, reject) =>
      child.once('close', (code, signal) =>
        code === 0 || signal === 'SIGKILL'
          ? resolve()
          : reject(new Error(`A writer ended with ${code}: ${complaints}`)),
      ),
    )
    return { child, said: () => out.split('\n').filter(Boolean), ended }
  }

  test('in processes and inside of one lose nothing of each other', async () => {
    await using dir = await tempDir()
    const here = await open(dir.path)
    const writers = ['a', 'b', 'c'].map((name) => start([dir.path, name, '12', 'shared']))
    await Promise.all([
      ...writers.map((w) => w.ended),
      ...Array.from({ length: 20 }, () => here.update('shared', plusOne('shared'))),
    ])
    expect(await Promise.all(['a', 'b', 'c', 'shared'].map((n) => count(dir.path, n)))).toEqual([12, 12, 12, 56])
    expect(await others(dir.path)).toEqual([])
  })

  test('that are killed at any moment leave what they said they did, and hold nobody up', async () => {
    await using dir = await tempDir()
    const rounds = 3
    let acknowledged = 0
    let started = 0
    let torn = 0
    const reader = setInterval(() => {
      void readRegistryFile(file(dir.path), { instance: INSTANCE, host: HOST }).then((r) => {
        if (r.is === 'corrupt') torn++
      })
    }, 3)
    for (let i = 0; i < rounds; i++) {
      const writers = Array.from({ length: 3 }, () => start([dir.path, 'web', '1000']))
      started += 3
      await until('each has written', () => writers.every((w) => w.said().length > 0), { every_ms: 1 })
      for (const w of writers) {
        w.child.kill('SIGKILL')
        await w.ended
      }
      acknowledged += writers.reduce((n, w) => n + w.said().length, 0)
    }
    clearInterval(reader)
    const r = await open(dir.path)
    // what a killed one had written and not decided is removed once a later revision shows that it is old
    for (const name of ['last', 'very-last']) await r.update(name, () => record(name))
    const found = await count(dir.path, 'web')
    // one that was killed may have been done and not have said so
    expect(found).toBeGreaterThanOrEqual(acknowledged)
    expect(found).toBeLessThanOrEqual(acknowledged + started)
    expect([torn, await others(dir.path), r.problems()]).toEqual([0, [], []])
  })

  /** calls that change something: between two of them a kill leaves the same disk */
  const calls = ['mkdir', 'write', 'fsync', 'link', 'rename', 'unlink', 'rmdir'] as const

  test('one that is killed at any of its system calls leaves a whole file, and the next goes on from there', async () => {
    await using dir = await tempDir()
    const template = join(dir.path, 'template')
    await (await open(template)).update('web', plusOne('web'))
    const where = (n: string) => join(dir.path, n)
    // paths are told by strace as they are given: only calls below this folder are counted
    const recorded = where('count')
    await cp(template, recorded, { recursive: true })
    const points: { call: string; index: number }[] = []
    const names: string[] = []
    const log = where('trace')
    await start([recorded, 'web', '2'], { prefix: ['strace', '-f', '-o', log, '-e', `trace=${calls.join(',')}`] }).ended
    for (const line of (await readFile(log, 'utf8')).split('\n')) {
      const call = /^\d+ +(\w+)\(/.exec(line)?.[1]
      if (call) names.push(`${call}${line.includes(recorded) ? ' here' : ''}`)
    }
    const seen = new Map<string, number>()
    let inside = false
    for (const n of names) {
      const [call, here] = n.split(' ') as [string, string | undefined]
      const index = (seen.get(call) ?? 0) + 1
      seen.set(call, index)
      if (here) inside = true
      if (here || (inside && call === 'fsync')) points.push({ call, index })
    }
    expect(points.length).toBeGreaterThan(15)
    expect(points.filter((p) => p.call === 'rename').length).toBeGreaterThanOrEqual(4)

    const wrong: string[] = []
    let hit = 0
    const one = async ({ call, index }: { call: string; index: number }): Promise<void> => {
      const at = where(`${call}-${index}`)
      await cp(template, at, { recursive: true })
      const w = start([at, 'web', '2'], {
        prefix: [
          'strace',
          '-f',
          '-o',
          '/dev/null',
          '-e',
          `trace=${call}`,
          '-e',
          `inject=${call}:signal=KILL:when=${index}`,
        ],
      })
      await w.ended
      const said = w.said().length
      if (said < 2) hit++
      const fault = (what: string) => void wrong.push(`${call} ${index} (${said} said): ${what}`)
      const seenFile = await readRegistryFile(file(at), { instance: INSTANCE, host: HOST })
      if (seenFile.is !== 'good') fault(`the file is ${seenFile.is}`)
      const r = await open(at)
      const now = Number((await r.get('web'))?.metadata.n)
      if (now !== said + 1 && now !== said + 2) fault(`the entry has ${now}`)
      const after = Number((await r.update('web', plusOne('web')))!.metadata.n)
      // what was decided and not yet seen is published by the next writer
      if (after < now + 1 || after > said + 3) fault(`the next change made it ${after}`)
      // and what was not decided is removed once it is seen to be old
      await r.update('web', plusOne('web'))
      if (r.problems().length > 0) fault(`it complains: ${r.problems()[0]!.message}`)
      const left = await others(at)
      if (left.length > 0) fault(`it leaves ${left.join(', ')}`)
    }
    const todo = [...points]
    await Promise.all(
      Array.from({ length: 8 }, async () => {
        for (let p = todo.shift(); p; p = todo.shift()) await one(p)
      }),
    )
    expect(wrong).toEqual([])
    expect(hit).toBeGreaterThan(points.length / 2)
  })

  test('one that stands still in the middle is overtaken, and spoils nothing when it goes on', async () => {
    await using dir = await tempDir()
    const stall = async (call: string, index: number, changes: number): Promise<void> => {
      const at = join(dir.path, `${call}-${index}-${changes}`)
      await (await open(at)).update('web', plusOne('web'))
      const slow = start([at, 'web', '1'], {
        prefix: [
          'strace',
          '-f',
          '-o',
          '/dev/null',
          '-e',
          `trace=${call}`,
          '-e',
          `inject=${call}:delay_enter=3600s:when=${index}`,
        ],
      })
      const fast = await open(at)
      try {
        await until('it holds the lock', async () => (await readdir(at)).includes('vms.json.lock'))
        for (let i = 0; i < changes; i++) await fast.update('web', plusOne('web'))
        expect(slow.said()).toEqual([]) // overtaken
      } finally {
        slow.child.kill('SIGKILL') // strace alone: what it held goes on
      }
      await slow.ended
      expect(slow.said()).toHaveLength(1)
      expect([at, await count(at, 'web')]).toEqual([at, changes + 2])
      await fast.update('web', plusOne('web'))
      expect(await others(at)).toEqual([])
    }
    // before its name for the revision, before the backup's, before its file takes the place of the old one
    const points = [['link', 1] as const, ['link', 2] as const, ['rename', 1] as const, ['rename', 2] as const]
    await Promise.all(points.flatMap(([call, index]) => [1, 4].map((changes) => stall(call, index, changes))))
  })
})

describe('a file that cannot be used', () => {
  const bad: Record<string, (path: string) => Promise<unknown>> = {
    'is empty': (p) => writeFile(p, ''),
    'is cut off': async (p) => writeFile(p, (await readFile(p, 'utf8')).slice(0, 300)),
    'is null': (p) => writeFile(p, 'null\n'),
    'is an empty object': (p) => writeFile(p, '{}'),
    'is a list': (p) => writeFile(p, '[]'),
    'is a number': (p) => writeFile(p, '42'),
    'has zeros': (p) => writeFile(p, Buffer.alloc(4096)),
    'has VMs as a list': (p) => writeFile(p, '{"schema":1,"revision":3,"instance":"here","host":"h1","vms":[]}'),
    'has no revision': (p) => writeFile(p, '{"schema":1,"instance":"here","host":"h1","vms":{}}'),
    'is of a later schema': (p) => writeFile(p, '{"schema":2,"revision":3,"instance":"here","host":"h1","vms":{}}'),
    'is a folder': async (p) => {
      await rm(p)
      await mkdir(p)
    },
    'is a link': async (p) => {
      await rm(p)
      await symlink('/etc/passwd', p)
    },
    'is a FIFO': async (p) => {
      await rm(p)
      await execa('mkfifo', [p])
    },
  }
  /** a registry with two changes, so that it has a backup with the first */
  async function made(dir: string): Promise<void> {
    const r = await open(dir)
    await r.recovered([])
    await r.update('web', () => record('web'))
    await r.update('db', () => record('db'))
  }

  test.each(Object.entries(bad))(
    'because it %s is set aside; its backup takes its place, and it is told',
    async (_, spoil) => {
      await using dir = await tempDir()
      await made(dir.path)
      await spoil(file(dir.path))
      expect((await readRegistry(dir.path)).map((r) => r.name)).toEqual(['web'])
      expect(await registryFaults(dir.path)).toHaveLength(1)
      const r = await open(dir.path)
      expect((await r.all()).map((x) => x.name)).toEqual(['web'])
      const kept = (await others(dir.path)).filter((f) => f.startsWith('vms.json.corrupt-'))
      expect(kept).toHaveLength(1)
      expect(r.problems()).toHaveLength(1)
      expect(r.problems()[0]).toMatchObject({
        kept: join(dir.path, kept[0]!),
        message: expect.stringMatching(
          /cannot be used: .*set aside as .*; the backup, which is one change older, took its place\.$/,
        ),
      })
      expect(r.said.filter((s) => s.event === 'vm.registry')).toHaveLength(1)
      // what the change was that was lost cannot be known
      expect(await r.toRecover()).toMatchObject({ reason: expect.stringContaining('backup') })
      // once, and never again
      const again = await open(dir.path)
      expect([again.problems(), (await again.all()).length]).toEqual([[], 1])
      expect((await registryFaults(dir.path)).filter((f) => f.includes('set aside'))).toHaveLength(1)
    },
  )

  test('and has no backup leaves nothing, and what there is to be found again', async () => {
    await using dir = await tempDir()
    await made(dir.path)
    await rm(`${file(dir.path)}.bak`)
    await writeFile(file(dir.path), 'null')
    const r = await open(dir.path)
    expect([await r.all(), r.problems().length]).toEqual([[], 1])
    expect(r.problems()[0]!.message).toContain('rebuilt from the domains that libvirt has with our metadata')
    await r.update('new', () => record('new'))
    // what is found again never takes the place of what is there
    expect((await (await open(dir.path)).toRecover())?.names).toBeUndefined()
    await r.recovered([record('web', { origin: 'recovered' }), record('new', { origin: 'recovered' })])
    expect((await r.all()).map((x) => [x.name, x.origin])).toEqual([
      ['new', 'vm'],
      ['web', 'recovered'],
    ])
    expect([await r.toRecover(), await registryFaults(dir.path).then((f) => f.length)]).toEqual([undefined, 1])
  })

  test('a backup that is damaged too is no help, and no harm', async () => {
    await using dir = await tempDir()
    await made(dir.path)
    for (const f of ['vms.json', 'vms.json.bak']) await writeFile(join(dir.path, f), '{"schema":')
    const r = await open(dir.path)
    expect(r.problems()[0]!.message).toContain('the backup cannot be used either')
    await r.update('web', () => record('web'))
    expect((await (await open(dir.path)).all()).length).toBe(1)
  })

  test('that was removed comes back from its backup', async () => {
    await using dir = await tempDir()
    await made(dir.path)
    await rm(file(dir.path))
    const r = await open(dir.path)
    expect([(await r.all()).map((x) => x.name), r.problems().length]).toEqual([['web'], 1])
  })

  test('that is damaged while it is open is healed at the next look', async () => {
    await using dir = await tempDir()
    await made(dir.path)
    const r = await open(dir.path)
    await writeFile(file(dir.path), 'nonsense')
    expect((await r.get('web'))?.name).toBe('web')
    await writeFile(file(dir.path), 'null')
    await r.update('web', (x) => ({ ...x!, desired: 'stopped' }))
    expect([(await r.get('web'))?.desired, r.problems().length]).toEqual(['stopped', 2])
  })

  test('however much of it is left, whoever opens it gets something that works', async () => {
    await using dir = await tempDir()
    await made(dir.path)
    const whole = await readFile(file(dir.path))
    const older = await readFile(`${file(dir.path)}.bak`)
    let n = 0
    await fc.assert(
      fc.asyncProperty(
        fc.nat({ max: whole.length - 1 }),
        fc.option(fc.tuple(fc.nat({ max: whole.length - 1 }), fc.integer({ min: 1, max: 255 }))),
        async (length, flip) => {
          const at = join(dir.path, `x${n++}`)
          await mkdir(at)
          const bytes = Buffer.from(whole)
          if (flip) bytes[flip[0]] = bytes[flip[0]]! ^ flip[1]
          await writeFile(file(at), flip ? bytes : bytes.subarray(0, length))
          await writeFile(`${file(at)}.bak`, older)
          // a changed letter may make it the registry of another instance, which is nobody's to change
          const r = await open(at).catch((error) => {
            if (flip && String(error).includes('belongs to the instance')) return undefined
            throw error
          })
          await r?.update('late', () => record('late'))
          expect((await r?.get('late'))?.name).toBe(r && 'late')
          await rm(at, { recursive: true })
        },
      ),
      { numRuns: 60 },
    )
  })

  test('one bad entry is taken from the backup or looked for, and costs no other', async () => {
    await using dir = await tempDir()
    await made(dir.path)
    const r0 = await open(dir.path)
    await r0.update('mail', () => record('mail'))
    const raw = JSON.parse(await text(dir.path))
    raw.vms.web.desired = 'dancing'
    raw.vms.mail = null
    raw.vms['../up'] = { ...raw.vms.db, name: '../up' }
    raw.vms.twin = raw.vms.db
    await writeFile(file(dir.path), JSON.stringify(raw))
    const r = await open(dir.path)
    expect((await r.all()).map((x) => [x.name, x.desired])).toEqual([
      ['db', 'running'],
      ['web', 'running'],
    ])
    expect((await r.toRecover())?.names?.sort()).toEqual(['../up', 'mail', 'twin'])
    const told = r.problems().map((p) => p.message)
    expect(told).toHaveLength(4)
    expect(told.find((m) => m.includes('"web"'))).toContain('its entry in the backup took its place')
    expect(told.find((m) => m.includes('"mail"'))).toContain("looked for among libvirt's domains")
    expect((await others(dir.path)).filter((f) => f.includes('corrupt'))).toHaveLength(1)
    expect((await open(dir.path)).problems()).toEqual([])
  })
})

describe("Ghost Agent's file", () => {
  const ghost = {
    'vm-1': {
      ID: 'vm-1',
      Name: 'vm-1',
      VCPU: 2,
      RAMGB: 4,
      DiskGB: 50,
      Status: 'running',
      IP: '192.168.122.10',
      Template: 'ubuntu-22.04',
      DiskPath: '/var/lib/ghost/images/disks/vm-1.qcow2',
      CreatedAt: '2026-01-02T03:04:05.123456789Z',
      UpdatedAt: '2026-01-02T03:05:05+01:00',
    },
    'vm-2': {
      ID: 'vm-2',
      Name: 'vm-2',
      VCPU: 1,
      RAMGB: 0.5,
      DiskGB: 10,
      Status: 'stopped',
      CreatedAt: '0001-01-01T00:00:00Z',
    },
  }

  test('is read with its keys, upgraded, and kept beside', async () => {
    await using dir = await tempDir()
    const original = JSON.stringify(ghost, null, 2)
    await writeFile(file(dir.path), original)
    const r = await open(dir.path)
    expect(await r.get('vm-1')).toMatchObject({
      uuid: uuidOfVm(INSTANCE, 'vm-1'),
      name: 'vm-1',
      origin: 'ghost',
      vcpus: 2,
      memory_bytes: 4 * 2 ** 30,
      disks: [
        { id: 'disk', path: '/var/lib/ghost/images/disks/vm-1.qcow2', format: 'qcow2', size_bytes: 50 * 2 ** 30 },
      ],
      template: 'ubuntu-22.04',
      addresses: ['192.168.122.10'],
      // its word on the state is that of the day when the VM was made
      desired: 'stopped',
      state: 'unknown',
      created_at: '2026-01-02T03:04:05.123Z',
    })
    const second = (await r.get('vm-2'))!
    expect([second.memory_bytes, second.disks[0]!.path, second.addresses, second.template]).toEqual([
      2 ** 29,
      '/var/lib/ghost/disks/vm-2.qcow2',
      [],
      undefined,
    ])
    expect(Date.parse(second.created_at)).toBeGreaterThan(Date.parse('2026-01-01'))
    const [kept, ...more] = await others(dir.path)
    expect([kept?.replace(/\d+T\d+Z/, 'TIME'), more]).toEqual(['vms.json.ghost-TIME', []])
    expect(await readFile(join(dir.path, kept!), 'utf8')).toBe(original)
    expect(registrySchema.parse(JSON.parse(await text(dir.path))).schema).toBe(1)
    expect([r.problems(), await r.toRecover()]).toEqual([[], undefined])
    // once
    await open(dir.path)
    expect(await others(dir.path)).toHaveLength(1)
  })

  test('an entry that is none costs no other', async () => {
    await using dir = await tempDir()
    await writeFile(file(dir.path), JSON.stringify({ ...ghost, odd: null, '../x': ghost['vm-1'] }))
    const r = await open(dir.path)
    expect((await r.all()).map((x) => x.name)).toEqual(['vm-1', 'vm-2'])
    expect(r.problems().map((p) => p.message)).toEqual([
      expect.stringContaining('"odd"'),
      expect.stringContaining('"../x"'),
    ])
  })
})
