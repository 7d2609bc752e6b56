// The commands that are about jobs, against a real agent on a private spool.
import { readdir, readFile, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { type Bed, bed } from '../support/agent.ts'
import { holds, makeDisk } from '../support/disks.ts'
import { artifactManifest, commandManifest, writeManifest } from '../support/manifests.ts'
import { statusOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'
import { cli, type RunOptions } from './run.ts'

const config = { lease: { timeout: '3s' }, retry: { max_attempts: 0 }, concurrency: { weight: 4 } }
const fresh =
  (b: Bed) =>
  (args: string[], o: RunOptions = {}) => {
    const [command, ...rest] = args
    return cli([command!, '--instance', b.instance, '--root', b.dir, ...rest], {
      ...o,
      env: { ...b.env, ...o.env },
      cwd: b.dir,
    })
  }

describe('with an agent', () => {
  test('submit --wait converts and tells how it went; status, list and result agree', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, config)
    const run = fresh(b)
    await b.start()
    const disk = await makeDisk(dir.path, 'web-01', { size_mib: 16 })
    const manifest = await writeManifest(dir.path, artifactManifest('web-01', [disk]))

    const submitted = await run(['submit', '--wait', manifest])
    expect(submitted, submitted.err).toMatchObject({ code: 0 })
    expect(submitted.out).toMatch(
      /^ID +NAME +STATE +DROPPED AS\n[0-9A-Z]{26} +web-01 +succeeded +artifact-manifest\.[0-9a-f]{16}\.json\n$/,
    )
    // no bar and no colour in a pipe: plain lines that name the job
    expect(submitted.err).toMatch(/web-01 \([0-9A-Z]{26}\): /)
    expect(submitted.err + submitted.out).not.toContain('\u001b')
    expect(await holds(join(b.layout.output, 'web-01.qcow2'), 'qcow2', disk)).toBe(true)

    const status = JSON.parse((await run(['status', 'web-01', '-o', 'json'])).out)
    expect(status).toMatchObject({ schema: 1, name: 'web-01', kind: 'convert', state: 'succeeded' })
    const byPrefix = await run(['status', status.id.slice(0, 20).toLowerCase(), '-o', 'name'])
    expect(byPrefix).toMatchObject({ code: 0, out: `${status.id}\n` })
    const list = JSON.parse((await run(['list', '-o', 'json'])).out)
    expect(list).toMatchObject([{ id: status.id, name: 'web-01', state: 'succeeded' }])
    expect((await run(['list', '--state', 'failed', '-o', 'json'])).out).toBe('[]\n')
    expect((await run(['list', '-o', 'yaml'])).out).toContain(`id: ${status.id}`)
    const table = (await run(['status', 'web-01'])).out
    expect(table).toMatch(/^Job: +[0-9A-Z]{26}\nName: +web-01\nKind: +convert\nState: +succeeded since /)
    expect(await run(['fsck'])).toMatchObject({ code: 0, out: expect.stringContaining('0 errors') })
  })

  test('a failing job: exit code 1 everywhere, the reason, the log, and a retry that names it', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, config)
    const run = fresh(b)
    await b.start()
    const fails = join(dir.path, 'fails')
    const script = `echo first line; echo to stderr >&2; test ! -e ${fails}`
    await writeFile(fails, '')
    const file = await writeManifest(dir.path, commandManifest('job-a', ['/bin/sh', '-c', script]), 'a.json')
    const submitted = await run(['submit', '--wait', '--quiet', file])
    expect(submitted).toMatchObject({ code: 1, out: expect.stringMatching(/job-a +failed/) })
    expect(submitted.err).toContain('job-a: ')
    expect((await run(['status', 'job-a'])).out).toMatch(/State: +failed/)
    const logs = await run(['logs', '-f', 'job-a'])
    expect(logs.code).toBe(1)
    expect(logs.out).toContain('first line')
    expect(logs.out).toContain('to stderr')

    const [old] = JSON.parse((await run(['list', '-o', 'json'])).out)
    await unlink(fails)
    const again = await run(['retry', 'job-a', '--wait', '-o', 'json', '-q'])
    expect(again.code, again.err).toBe(0)
    const [retried] = JSON.parse(again.out)
    expect(retried).toMatchObject({ name: 'job-a', state: 'succeeded' })
    expect(retried.id).not.toBe(old.id)
    const done = await until('its record is done', async () => (await readdir(b.layout.done))[0])
    expect(JSON.parse(await readFile(join(b.layout.done, done!), 'utf8'))).toMatchObject({
      id: retried.id,
      retry_of: old.id,
    })
    // the old job stays what it was
    expect(JSON.parse((await run(['status', old.id, '-o', 'json'])).out)).toMatchObject({ state: 'failed' })
    // its name belongs to the new one
    expect(JSON.parse((await run(['status', 'job-a', '-o', 'json'])).out)).toMatchObject({ id: retried.id })
  })

  test('cancel ends a running job; waiting for it says so; a second cancel has nothing to do', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, config)
    const run = fresh(b)
    await b.start()
    const file = await writeManifest(dir.path, commandManifest('long', ['sleep', '600']), 'long.json')
    const submitted = await run(['submit', file, '-o', 'json'])
    expect(submitted.code).toBe(0)
    const [{ id }] = JSON.parse(submitted.out)
    await until('it runs', async () => JSON.parse((await run(['status', id, '-o', 'json'])).out).state === 'running')
    const cancelled = await run(['cancel', 'long', '--wait', '-q', '-o', 'json'])
    expect(cancelled.code, cancelled.err).toBe(0)
    expect(JSON.parse(cancelled.out)).toMatchObject([{ id, state: 'cancelled' }])
    expect(await run(['status', id, '--wait', '-q'])).toMatchObject({ code: 1 })
    expect(await run(['cancel', id])).toMatchObject({
      code: 1,
      err: expect.stringContaining('has ended already: cancelled'),
    })
    expect(await run(['retry', 'nothing'])).toMatchObject({
      code: 2,
      err: expect.stringContaining('There is no job "nothing"'),
    })
  })

  test('a wait that times out ends with 124, an interrupted one with 130; the job goes on', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, config)
    const run = fresh(b)
    await b.start()
    const file = await writeManifest(dir.path, commandManifest('long', ['sleep', '600']), 'long.json')
    const late = await run(['submit', '--wait', '--timeout', '1s', file])
    expect(late.code).toBe(124)
    expect(late.err).toMatch(/Job [0-9A-Z]{26} had not ended after 1 s|The drop long\..* had not ended/)
    await until('it runs', async () => (await statusOf(b, 'long'))?.state === 'running')
    let sent = false
    const interrupted = await run(['status', 'long', '--wait'], {
      onOutput: (text, kill) => {
        if (sent || !text.includes('long (')) return
        sent = true
        kill('SIGINT')
      },
    })
    expect(interrupted).toMatchObject({ code: 130, err: expect.stringContaining('The wait was interrupted; job') })
    expect(JSON.parse((await run(['status', 'long', '-o', 'json'])).out).state).toBe('running')
    expect(await run(['cancel', 'long', '--wait', '-q'])).toMatchObject({ code: 0 })
  })

  test('logs -f prints what is written as it is written, and ends with the job', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, config)
    const run = fresh(b)
    await b.start()
    const go = join(dir.path, 'go')
    const script = `echo one; until test -e ${go}; do sleep 0.05; done; echo two`
    const file = await writeManifest(dir.path, commandManifest('talk', ['/bin/sh', '-c', script]), 'talk.json')
    expect((await run(['submit', file])).code).toBe(0)
    let seen = false
    const followed = await run(['logs', '-f', 'talk'], {
      onOutput: (text) => {
        // "two" is only written after "one" was seen here: what is followed is live
        if (!seen && text.includes('one')) {
          seen = true
          void writeFile(go, '')
        }
      },
    })
    expect(followed).toMatchObject({ code: 0, err: expect.stringContaining('succeeded') })
    expect(followed.out.indexOf('two')).toBeGreaterThan(followed.out.indexOf('one'))
    expect(followed.out.match(/one/g)).toHaveLength(1)
    const last = await run(['logs', '-n', '1', 'talk'])
    expect(last.out.trimEnd().split('\n')).toHaveLength(1)
  })

  test('on a terminal: a bar and colours; with NO_COLOR no colours', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, config)
    const run = fresh(b)
    await b.start()
    const disk = await makeDisk(dir.path, 'bar', { size_mib: 8 })
    const manifest = await writeManifest(dir.path, artifactManifest('bar', [disk]))
    const shown = await run(['submit', '--wait', manifest], { terminal: true })
    expect(shown.code, shown.out).toBe(0)
    expect(shown.out).toMatch(/[█░]{10,}/)
    expect(shown.out).toContain('100 %')
    expect(shown.out).toContain('\u001b[32msucceeded')
    const plain = await run(['list'], { terminal: true, env: { NO_COLOR: '1' } })
    expect(plain.code).toBe(0)
  })

  test('convert goes through the agent and says so; without one it runs here; same bytes', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, config)
    const run = fresh(b)
    const agent = await b.start()
    const disk = await makeDisk(dir.path, 'both', { size_mib: 8 })
    const through = await run(['convert', disk.path, '-o', 'through'])
    expect(through.code, through.err).toBe(0)
    expect(through.err).toContain(`Converting "both" through the agent of "${b.instance}" (pid ${agent.pid} `)
    const image = through.out.trimEnd().split('\n').at(-1)!
    expect(image).toMatch(/through\/both\.qcow2$/)
    expect(await holds(join(dir.path, 'through/both.qcow2'), 'qcow2', disk)).toBe(true)
    expect((await readdir(join(dir.path, 'through'))).filter((f) => f.startsWith('.'))).toEqual([])
    expect(await run(['convert', disk.path, '-o', 'through'])).toMatchObject({
      code: 73,
      err: expect.stringContaining('both.qcow2'),
    })

    await agent.stop()
    const here = await run(['convert', disk.path, '-o', 'here', '--format', 'raw', '--name', 'other'])
    expect(here.code, here.err).toBe(0)
    expect(here.err).toContain(`Converting "other" directly (no agent of "${b.instance}" is running).`)
    expect(await holds(join(dir.path, 'here/other.raw'), 'raw', disk)).toBe(true)
    expect((await readdir(join(dir.path, 'here'))).filter((f) => f.startsWith('.'))).toEqual([])
  })

  test('daemon: status, pause, resume, stats, drain --wait, for an agent started by hand', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, config)
    const run = fresh(b)
    const agent = await b.start()
    const status = await run(['daemon', 'status', '-o', 'json'])
    expect(status.code).toBe(0)
    expect(JSON.parse(status.out)).toMatchObject({
      total: 1,
      instances: [
        {
          name: b.instance,
          active: true,
          status: 'active',
          main_pid: agent.pid,
          watch_dir: b.layout.queue,
          output_dir: b.layout.output,
        },
      ],
    })
    const table = await run(['daemon'])
    expect(table.out).toMatch(/^Instance +Service +Status +PID +Uptime +Agents\n/)
    expect(table.out).toMatch(/\n\nInstance +Watch Directory +Output Directory\n/)
    const dialect = await cli(['daemon', '-op', 'status', '-instance', b.instance, '-json', '--root', b.dir], {
      env: b.env,
    })
    expect(JSON.parse(dialect.out).instances[0].name).toBe(b.instance)

    expect(await run(['daemon', 'pause'])).toMatchObject({ code: 0, out: 'Daemon paused\n' })
    expect(JSON.parse((await run(['daemon', 'status', '-o', 'json'])).out).instances[0].status).toBe('paused')
    expect(await run(['daemon', 'resume'])).toMatchObject({ code: 0, out: 'Daemon resumed\n' })
    expect(JSON.parse((await run(['daemon', 'stats', '-o', 'json'])).out)).toMatchObject({
      status: 'ok',
      stats: { total_processed: 0 },
    })
    expect(await run(['daemon', 'drain', '--wait'])).toMatchObject({ code: 0, out: 'Draining queue\n' })
    expect((await agent.exited).code).toBe(0)
    expect(await run(['daemon', 'status'])).toMatchObject({ code: 69 })
    expect(await run(['daemon', 'pause'])).toMatchObject({
      code: 69,
      err: expect.stringContaining('No agent of the instance'),
    })
  })

  test('a client sees that the agent died, and that another one came', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, config)
    const run = fresh(b)
    const agent = await b.start()
    // The second agent takes the program over; it ends when the client has seen that agent.
    const seen = join(dir.path, 'seen')
    const script = `until test -e ${seen}; do sleep 0.05; done`
    const file = await writeManifest(dir.path, commandManifest('survivor', ['/bin/sh', '-c', script]), 's.json')
    const step = { killed: false, restarted: false }
    let failure: unknown
    const waited = await run(['submit', '--wait', '--agent-grace', 'never', file], {
      onOutput: (text, kill) => {
        const giveUp = (error: unknown) => {
          failure = error
          kill('SIGINT')
        }
        if (!step.killed && /survivor .*: run/.test(text)) {
          step.killed = true
          agent.kill().catch(giveUp)
        }
        if (!step.restarted && text.includes('is alive. Waiting for one to come back')) {
          step.restarted = true
          b.start().catch(giveUp)
        }
        if (text.includes('is alive again.')) writeFile(seen, '').catch(giveUp)
      },
    })
    expect(failure).toBeUndefined()
    expect(waited.code, waited.err).toBe(0)
    expect(waited.err).toContain(`No agent of "${b.instance}" is alive.`)
    expect(waited.err).toContain(`An agent of "${b.instance}" is alive again.`)
  })
})

describe('without an agent', () => {
  test('no spool: 73, and none is made by a typing mistake', async () => {
    await using dir = await tempDir()
    const file = await writeManifest(dir.path, commandManifest('x', ['true']))
    const r = await cli(['submit', '--instance', 'typo', '--root', join(dir.path, 'spools'), file])
    expect(r).toMatchObject({ code: 73, out: '', err: expect.stringContaining('There is no spool "typo" below') })
    expect(await readdir(dir.path)).toEqual(['artifact-manifest.json'])
  })

  test('submit drops all the same and says that nobody works; --wait ends with 69 after its grace', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, config)
    const run = fresh(b)
    await (await b.start()).stop()
    const file = await writeManifest(dir.path, commandManifest('later', ['true']), 'later.json')
    const dropped = await run(['submit', file, '-o', 'name'])
    expect(dropped).toMatchObject({ code: 0, err: expect.stringContaining(`No agent of "${b.instance}" is alive.`) })
    expect(await readdir(b.layout.queue)).toContain(dropped.out.trim())
    const waited = await run(['submit', '--wait', '--agent-grace', '1s', file])
    expect(waited).toMatchObject({ code: 69, err: expect.stringContaining('no agent of') })
    // both are worked on by the next agent
    await b.start()
    await until('both ended', async () => (await readdir(b.layout.done)).length === 2)
  })

  test('a bad manifest is not dropped, and of several files none when one is bad', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, config)
    const run = fresh(b)
    await (await b.start()).stop()
    const good = await writeManifest(dir.path, commandManifest('good', ['true']), 'good.json')
    const bad = await writeManifest(dir.path, { ...commandManifest('bad', ['true']), priority: 11 }, 'bad.json')
    const r = await run(['submit', good, bad])
    expect(r).toMatchObject({ code: 65, out: '' })
    expect(r.err).toMatch(/bad\.json:\d+:\d+: error: priority is 11/)
    expect(r.err).toContain('Nothing was submitted')
    expect((await readdir(b.layout.queue)).filter((f) => !f.startsWith('.'))).toEqual([])
  })

  test('relative disks are taken from the folder of the manifest', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, config)
    const run = fresh(b)
    await (await b.start()).stop()
    const disk = await makeDisk(dir.path, 'rel', { size_mib: 1 })
    const manifest = artifactManifest('rel', [{ ...disk, path: 'rel.vmdk' }])
    const file = await writeManifest(dir.path, manifest, 'rel.json')
    const r = await run(['submit', file, '-o', 'name'])
    expect(r.code, r.err).toBe(0)
    const dropped = JSON.parse(await readFile(join(b.layout.queue, r.out.trim()), 'utf8'))
    expect(dropped.disks[0].local_path).toBe(disk.path)
  })
})
