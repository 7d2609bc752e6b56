// Batches on real agents: limits, order, errors, crashes, cancel and retry.
import { chmod, chown, mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { execa } from 'execa'
import { describe, expect, test } from 'vitest'
import { cli } from '../cli/run.ts'
import { type Bed, bed, control, vmspool } from '../support/agent.ts'
import { holds, makeDisk } from '../support/disks.ts'
import { artifactManifest, commandManifest, writeManifest } from '../support/manifests.ts'
import { drop, endOf, eventsOf, readJson, type Status, statusOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

async function audited(b: Bed): Promise<void> {
  const fsck = await execa(vmspool, ['fsck', '--root', b.dir, '--instance', b.instance], { env: b.env, reject: false })
  expect(fsck.stdout).toContain('0 errors')
}

interface Told {
  id: string
  state: string
  name?: string
  job?: string
  reason?: string
}
const resultOf = async (b: Bed, name: string) =>
  (await readJson<{ state: string; counts: Record<string, number>; children: Told[] }>(
    join(b.layout.output, `${name}.batch.result.json`),
  ))!
const states = (r: { children: Told[] }) => Object.fromEntries(r.children.map((c) => [c.id, c.state]))
const run = (b: Bed, ...args: string[]) =>
  cli([args[0]!, '--instance', b.instance, '--root', b.dir, ...args.slice(1)], { env: b.env, cwd: b.dir })

/** A VM of a batch that is a program: cheap, and it can say what it does. */
const program = (id: string, script: string, more: object = {}) => ({
  id,
  manifest: commandManifest(id, ['/bin/sh', '-c', script], { retry: { max_attempts: 0 } }),
  ...more,
})
const batch = (name: string, vms: object[], more: object = {}) => ({
  kind: 'batch',
  name,
  batch_metadata: { parallel_limit: 4, continue_on_error: true, ...more },
  vms,
})

describe.concurrent('a batch', () => {
  test('of manifests and of a workflow is converted; each VM is a job of its own, and one status tells of all', async () => {
    await using dir = await tempDir()
    // One slot: a batch that held it would wait for its own children for ever.
    await using b = await bed(dir.path, { concurrency: { weight: 1 } })
    await b.start()
    await mkdir(join(dir.path, 'vms'))
    const one = await makeDisk(join(dir.path, 'vms'), 'one', { size_mib: 2 })
    const two = await makeDisk(join(dir.path, 'vms'), 'two', { size_mib: 2, format: 'raw' })
    await writeManifest(join(dir.path, 'vms'), artifactManifest('one', [{ ...one, path: 'one.vmdk' }]), 'one.json')
    await writeManifest(
      join(dir.path, 'vms'),
      {
        version: '1.0',
        name: 'two',
        pipeline: { load: { source_type: 'raw', source_path: 'two.raw' }, convert: { output_format: 'qcow2' } },
      },
      'two.json',
    )
    const file = await writeManifest(
      dir.path,
      {
        batch_version: '1.0',
        batch_metadata: { batch_id: 'night' },
        shared_config: { labels: { batch: 'night' } },
        vms: [
          { id: 'one', manifest: 'vms/one.json', overrides: { output: { vm_name: 'web-01' } } },
          { id: 'two', manifest: 'vms/two.json' },
          { id: 'off', manifest: 'vms/none.json', enabled: false },
        ],
      },
      'batch.json',
    )
    const submitted = await run(b, 'submit', '--wait', file)
    expect(submitted, submitted.err).toMatchObject({ code: 0 })
    expect(await holds(join(b.layout.output, 'web-01.qcow2'), 'qcow2', one)).toBe(true)
    expect(await holds(join(b.layout.output, 'two.qcow2'), 'qcow2', two)).toBe(true)
    const parent = (await statusOf(b, 'night.batch'))!
    expect(parent).toMatchObject({
      kind: 'batch',
      state: 'succeeded',
      children: { total: 3, succeeded: 2, skipped: 1, failed: 0 },
    })
    const result = await resultOf(b, 'night')
    expect(result).toMatchObject({
      state: 'succeeded',
      children: [
        { id: 'one', state: 'succeeded', name: 'web-01' },
        { id: 'two', state: 'succeeded', name: 'two' },
        { id: 'off', state: 'skipped' },
      ],
    })
    expect(await statusOf(b, 'web-01')).toMatchObject({ parent: parent.id, vm_id: 'one', id: result.children[0]!.job })
    // A job that says of itself that it belongs to the batch does not.
    await drop(b, commandManifest('spy', ['true'], { parent: parent.id }))
    expect(await endOf(b, 'spy')).not.toHaveProperty('parent')
    const listed = JSON.parse((await run(b, 'list', '--batch', 'night', '-o', 'json')).out) as Status[]
    expect(listed.map((s) => s.name).sort()).toEqual(['two', 'web-01'])
    const shown = (await run(b, 'status', 'night')).out
    expect(shown).toMatch(/VMs: +2 of 2 VMs succeeded, 1 disabled\n/)
    expect(shown).toMatch(/\n\nVM +ID +NAME +STATE +DONE +DETAIL\none +[0-9A-Z]{26} +web-01 +succeeded +100 %/)
    expect((await run(b, 'status', 'web-01')).out).toContain(`Batch:        ${parent.id} (VM one)`)
    await audited(b)
  })

  test('keeps its limit, and starts by priority, then by index', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { concurrency: { weight: 8 } })
    await b.start()
    const log = join(dir.path, 'log')
    const script = (id: string) => `echo begin ${id} >> ${log}; sleep 0.15; echo end ${id} >> ${log}`
    const priorities: Record<string, number> = { a: 5, b: 0, c: -1, d: 0, e: 9, f: 5 }
    const vms = Object.entries(priorities).map(([id, priority]) => program(id, script(id), { priority }))
    await drop(b, batch('two', vms, { parallel_limit: 2 }))
    expect(await endOf(b, 'two.batch')).toMatchObject({ state: 'succeeded' })
    const lines = (await readFile(log, 'utf8')).trim().split('\n')
    let now = 0
    for (const line of lines) {
      now += line.startsWith('begin') ? 1 : -1
      expect(now).toBeLessThanOrEqual(2)
    }
    const started = (await eventsOf(b, 'accepted')).map((e) => e.name).filter((n) => n !== 'two.batch')
    expect(started).toEqual(['c', 'b', 'd', 'a', 'f', 'e'])

    await drop(
      b,
      batch(
        'one',
        ['x', 'y', 'z'].map((id) => program(id, script(id))),
        { parallel_limit: 1 },
      ),
    )
    expect(await endOf(b, 'one.batch')).toMatchObject({ state: 'succeeded' })
    const rest = (await readFile(log, 'utf8')).trim().split('\n').slice(lines.length)
    expect(rest).toEqual(['x', 'y', 'z'].flatMap((id) => [`begin ${id}`, `end ${id}`]))
    await audited(b)
  })

  test('goes on after errors, and each tells its own reason; a bad manifest is a rejected VM', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    await writeFile(join(dir.path, 'bad.json'), '{"manifest_version": "1.0", "disks": [{"id": "d"}]}')
    await writeManifest(dir.path, batch('inner', [program('x', 'true')]), 'inner.json')
    const vms = [
      program('a', 'exit 3'),
      { id: 'bad', manifest: join(dir.path, 'bad.json') },
      { id: 'gone', manifest: join(dir.path, 'gone.json') },
      { id: 'nested', manifest: join(dir.path, 'inner.json') },
      { id: 'link', manifest: '/proc/self/root/etc/passwd' },
      program('z', 'true'),
    ]
    await drop(b, batch('mixed', vms))
    const status = await endOf(b, 'mixed.batch')
    expect(status).toMatchObject({ state: 'failed', exit_code: 1, children: { succeeded: 1, failed: 5 } })
    const result = await resultOf(b, 'mixed')
    expect(states(result)).toEqual({
      a: 'failed',
      bad: 'rejected',
      gone: 'rejected',
      nested: 'rejected',
      link: 'rejected',
      z: 'succeeded',
    })
    const reason = (id: string) => result.children.find((c) => c.id === id)!.reason
    expect(reason('a')).toContain('exit code 3')
    expect(reason('bad')).toContain('disks[0].source_format')
    expect(reason('gone')).toContain('does not exist')
    expect(reason('nested')).toContain('do not nest')
    expect(reason('link')).toContain('link')
    const rejected = result.children.find((c) => c.id === 'bad')!
    const own = await readJson<{ diagnostics: { path: string }[] }>(
      join(b.layout.outputJobs, rejected.job!, 'result.json'),
    )
    expect(own!.diagnostics.map((d) => d.path)).toContain('disks[0].local_path')
    expect(await readFile(join(b.layout.output, 'mixed.batch.error'), 'utf8')).toMatch(/1 of 6 VMs succeeded, 5 failed/)
    await audited(b)
  })

  test('keeps apart what is called alike, ends after its timeout, and its VMs with it', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { timeouts: { kill_grace: '200ms' } })
    await b.start()
    const at = async (file: string, manifest: object) => ({
      id: file,
      manifest: await writeManifest(dir.path, manifest, `${file}.json`),
    })
    const { name: _, ...nameless } = commandManifest('x', ['true'])
    await drop(b, {
      ...batch('web', [
        await at('same', commandManifest('web', ['true'])),
        await at('again', commandManifest('web', ['true'])),
        await at('none', nameless),
        await at('taken', commandManifest('x.batch', ['true'])),
      ]),
    })
    const status = await endOf(b, 'web.batch')
    expect(status).toMatchObject({ state: 'failed', children: { succeeded: 2, failed: 2 } })
    const result = await resultOf(b, 'web')
    expect(result.children).toMatchObject([
      { state: 'succeeded', name: 'web' },
      { state: 'rejected', name: 'web-again', reason: expect.stringContaining('like "same"') },
      { state: 'succeeded', name: 'web-none' },
      { state: 'rejected', name: 'web-taken', reason: expect.stringContaining('those of batches') },
    ])
    expect(await statusOf(b, 'web')).toMatchObject({ state: 'succeeded', kind: 'command' })

    await drop(b, { ...batch('late', [program('long', 'sleep 600')]), timeout: '2s' })
    expect(await endOf(b, 'late.batch')).toMatchObject({ state: 'failed' })
    const late = await resultOf(b, 'late')
    expect(late).toMatchObject({ error: { code: 'timed-out' } })
    // On a machine that is very slow it may not even have been started.
    expect(late.children[0]!.state).toMatch(/^(cancelled|not_run)$/)
    await audited(b)
  })

  test.runIf(process.geteuid?.() === 0)('reads only what its submitter may read', async () => {
    await using dir = await tempDir()
    await chmod(dir.path, 0o755)
    await using b = await bed(dir.path, { intake: { import_roots: [dir.path] }, retry: { max_attempts: 0 } })
    await b.start()
    const disk = await makeDisk(dir.path, 'disk', { size_mib: 1, format: 'raw' })
    const secret = await makeDisk(dir.path, 'secret', { size_mib: 1, format: 'raw' })
    await chmod(secret.path, 0o600)
    const vm = async (id: string, d: typeof disk, mode: number) => {
      const manifest = await writeManifest(dir.path, artifactManifest(id, [d]), `${id}.json`)
      await chmod(manifest, mode)
      return { id, manifest }
    }
    const vms = [await vm('hidden', disk, 0o600), await vm('disk-hidden', secret, 0o644), await vm('open', disk, 0o644)]
    const temp = join(b.layout.queue, '.theirs.json')
    await writeFile(temp, JSON.stringify(batch('theirs', vms)))
    await chown(temp, 65534, 65534)
    await rename(temp, join(b.layout.queue, 'theirs.json'))
    expect(await endOf(b, 'theirs.batch')).toMatchObject({ state: 'failed' })
    const result = await resultOf(b, 'theirs')
    expect(states(result)).toEqual({ hidden: 'rejected', 'disk-hidden': 'failed', open: 'succeeded' })
    for (const c of result.children.slice(0, 2)) expect(c.reason).toContain('(uid 65534) may not read')
    // Not a word of what stands in the manifest that he may not read.
    expect(await readFile(join(b.layout.outputJobs, result.children[0]!.job!, 'result.json'), 'utf8')).not.toContain(
      'vsphere',
    )
  })

  test('that does not continue on errors lets run what runs, cancels what waits, and starts nothing more', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { concurrency: { jobs: 2 } })
    await b.start()
    const go = join(dir.path, 'go')
    const wait = `while [ ! -e ${go} ]; do sleep 0.05; done`
    const vms = [
      program('long', wait),
      program('fails', `while [ ! -e ${go}.fail ]; do sleep 0.05; done; exit 1`),
      program('queued', 'true'),
      program('later', 'true'),
    ]
    await drop(b, batch('strict', vms, { parallel_limit: 3, continue_on_error: false }))
    await until('two run and one is queued', async () => {
      const n = (await statusOf(b, 'strict.batch'))?.children as Record<string, number> | undefined
      return n?.running === 2 && n.queued === 1 && n.waiting === 1
    })
    // Or the third could start in the moment between the end of the second and the batch's seeing it.
    await control(b, 'pause')
    await writeFile(`${go}.fail`, '')
    await until('the batch stops', async () => (await statusOf(b, 'queued'))?.state === 'cancelled', {
      also: () => b.agents.map((a) => a.output()).join('\n'),
    })
    await writeFile(go, '')
    expect(await endOf(b, 'strict.batch')).toMatchObject({ state: 'failed' })
    const result = await resultOf(b, 'strict')
    expect(states(result)).toEqual({ long: 'succeeded', fails: 'failed', queued: 'cancelled', later: 'not_run' })
    expect(result.children[3]!.reason).toContain('"fails" failed')
    await audited(b)
  })

  test('is cancelled with its children, also when no agent has it', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { timeouts: { kill_grace: '200ms' } })
    const agent = await b.start()
    const vms = ['a', 'b', 'c'].map((id) => program(id, 'sleep 600'))
    await drop(b, batch('one', vms, { parallel_limit: 2 }))
    await until(
      'two run',
      async () => ((await statusOf(b, 'one.batch'))?.children as Record<string, number>)?.running === 2,
    )
    expect(await run(b, 'cancel', 'one', '--wait', '-q')).toMatchObject({ code: 0 })
    expect(states(await resultOf(b, 'one'))).toEqual({ a: 'cancelled', b: 'cancelled', c: 'not_run' })
    expect(await statusOf(b, 'one.batch')).toMatchObject({ state: 'cancelled' })

    await drop(b, batch('two', vms, { parallel_limit: 2 }))
    await until(
      'two run',
      async () => ((await statusOf(b, 'two.batch'))?.children as Record<string, number>)?.running === 2,
    )
    await agent.kill()
    expect(await run(b, 'cancel', 'two', '-q')).toMatchObject({ code: 0 })
    await b.start()
    expect(await endOf(b, 'two.batch')).toMatchObject({ state: 'cancelled' })
    expect(states(await resultOf(b, 'two'))).toEqual({ a: 'cancelled', b: 'cancelled', c: 'not_run' })
    await audited(b)
  })

  test('retried runs only what has not succeeded', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    const log = join(dir.path, 'log')
    const mended = join(dir.path, 'mended')
    const vms = [
      program('a', `echo a >> ${log}`),
      program('b', `echo b >> ${log}; test -e ${mended}`),
      program('c', `echo c >> ${log}`),
    ]
    await drop(b, batch('again', vms))
    const first = await endOf(b, 'again.batch')
    expect(first).toMatchObject({ state: 'failed' })
    const was = await resultOf(b, 'again')
    await writeFile(mended, '')
    const retried = await run(b, 'retry', 'again', '--wait', '-q', '-o', 'json')
    expect(retried.code, retried.err).toBe(0)
    expect((await readFile(log, 'utf8')).trim().split('\n').sort()).toEqual(['a', 'b', 'b', 'c'])
    const result = await resultOf(b, 'again')
    expect(states(result)).toEqual({ a: 'succeeded', b: 'succeeded', c: 'succeeded' })
    expect(result.children[0]).toMatchObject({ job: was.children[0]!.job, name: 'a' })
    expect(result.children[1]!.job).not.toBe(was.children[1]!.job)
    // A job that did not succeed is not believed, whoever names it.
    await drop(b, batch('lied', [program('b', `echo b >> ${log}`, { done_by: was.children[1]!.job })]))
    await endOf(b, 'lied.batch')
    expect((await readFile(log, 'utf8')).trim().split('\n')).toHaveLength(5)
    await audited(b)
  })

  test('survives kills of its agents: no child is lost, none is run twice', { timeout: 600_000 }, async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { lease: { timeout: '1s' }, max_crashes: 100 })
    const log = join(dir.path, 'log')
    const ids = Array.from({ length: 24 }, (_, i) => `v${i}`)
    // the last ones wait until there were kills enough
    const go = join(dir.path, 'go')
    const wait = (i: number) => (i < 20 ? 'sleep 0.1' : `until test -e ${go}; do sleep 0.05; done`)
    const vms = ids.map((id, i) => program(id, `echo ${id} >> ${log}; ${wait(i)}`))
    await b.start()
    await drop(b, batch('kills', vms, { parallel_limit: 6 }))
    let killed = 0
    const victims = new Set<number>()
    while (!(await ended(b, 'kills.batch'))) {
      const accepted = new Set((await eventsOf(b, 'accepted')).map((e) => e.job)).size
      // At other moments of the life of the batch each time, as chance has it.
      if (killed < 5 && accepted > killed * 4) {
        const alive = b.agents.filter((a) => a.alive())
        const victim = alive[killed % alive.length]!
        victims.add(victim.pid)
        await victim.kill()
        killed += 1
        if (killed === 5) await writeFile(go, '')
        if (b.agents.filter((a) => a.alive()).length < 2) await b.start({ worker: killed % 2 === 0 })
      }
      await new Promise((r) => setTimeout(r, 20))
    }
    expect(victims.size).toBeGreaterThan(1)
    const result = await resultOf(b, 'kills')
    expect(result.counts).toMatchObject({ total: 24, succeeded: 24 })
    // Each VM became one job, under one id; a kill may make a job run anew, never make a second one.
    expect(new Set(result.children.map((c) => c.job)).size).toBe(24)
    const accepted = (await eventsOf(b, 'accepted')).filter((e) => e.name !== 'kills.batch')
    const jobs = new Set(accepted.map((e) => e.job))
    for (const c of result.children) jobs.delete(c.job)
    expect(jobs.size).toBe(0)
    const lines = (await readFile(log, 'utf8')).trim().split('\n')
    expect(new Set(lines).size).toBe(24)
    const runs = await Promise.all(
      result.children.map(
        async (c) => (await readJson<Status>(join(b.layout.outputJobs, c.job!, 'status.json')))!.epoch!,
      ),
    )
    expect(lines.length).toBeLessThanOrEqual(24 + runs.reduce((n, epoch) => n + epoch, 0))
    await until('all records are done', async () => (await readdir(b.layout.done)).length === 25)
    await audited(b)
  })

  test('drains: its agent leaves it, and the next goes on', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    const agent = await b.start()
    const go = join(dir.path, 'go')
    const vms = [program('a', `while [ ! -e ${go} ]; do sleep 0.05; done`), program('b', 'true')]
    await drop(b, batch('drained', vms, { parallel_limit: 1 }))
    await until('one runs', async () => (await statusOf(b, 'a'))?.state === 'running')
    agent.signal('SIGTERM')
    await until('the batch is given back', async () =>
      (await eventsOf(b, 'given-back')).some((e) => e.name === 'drained.batch'),
    )
    await writeFile(go, '')
    expect(await agent.exited).toMatchObject({ code: 0 })
    expect(await statusOf(b, 'b')).toBeUndefined()
    await b.start()
    expect(await endOf(b, 'drained.batch')).toMatchObject({ state: 'succeeded', epoch: 1 })
    await audited(b)
  })
})

const ended = async (b: Bed, name: string) =>
  ['succeeded', 'failed', 'cancelled', 'rejected'].includes((await statusOf(b, name))?.state ?? '')
