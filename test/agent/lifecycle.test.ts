// A real agent in a real process, told what to do by signals, by its socket and by files.
import { readdir, readFile, readlink, stat, writeFile } from 'node:fs/promises'
import { request } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { identify } from '../../src/process/index.ts'
import { type Bed, bed } from '../support/agent.ts'
import { processesMarked } from '../support/leaks.ts'
import { commandManifest } from '../support/manifests.ts'
import { drop, endOf, eventsOf, readJson, statusOf } from '../support/results.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

const socketOf = (b: Bed) => readlink(join(b.layout.daemon, 'control.sock'))

/** Without newline, as the old client sends it. */
async function say(b: Bed, command: string): Promise<Record<string, unknown>> {
  const path = await socketOf(b)
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    const c = connect(path, () => c.write(JSON.stringify({ command })))
    c.on('error', reject)
    c.on('data', (d: Buffer) => chunks.push(d))
    c.on('end', () => resolve(JSON.parse(Buffer.concat(chunks).toString('utf8'))))
  })
}

function get(socketPath: string, path: string): Promise<{ code: number | undefined; body: string }> {
  return new Promise((resolve, reject) => {
    const r = request({ socketPath, path, agent: false }, (res) => {
      let body = ''
      res.on('data', (d) => {
        body += d
      })
      res.on('end', () => resolve({ code: res.statusCode, body }))
    })
    r.on('error', reject)
    r.end()
  })
}

const running = (b: Bed, name: string) =>
  until(`${name} runs`, async () => (await statusOf(b, name))?.state === 'running')
const sleepers = (b: Bed) =>
  processesMarked(`VMSPOOL_TEST_BED=${b.env.VMSPOOL_TEST_BED}`).filter((p) => /(^|\/)sleep 6/.test(p.command))
const sleeping = (b: Bed, name: string, more: object = {}) => drop(b, commandManifest(name, ['sleep', '600'], more))

describe.concurrent('an agent', () => {
  test('runs commands: exit code, output, failure, and what cannot be started', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    await drop(
      b,
      commandManifest('good', ['sh', '-c', 'echo hello; echo "$VMSPOOL_NAME" >&2; exit 3'], {
        command: { argv: ['sh', '-c', 'echo hello; echo "$VMSPOOL_NAME" >&2; exit 3'], expected_exit_codes: [0, 3] },
      }),
    )
    await drop(b, commandManifest('bad', ['sh', '-c', 'echo broken >&2; exit 4']))
    await drop(b, commandManifest('none', ['/no/such/program']))
    const good = await endOf(b, 'good')
    expect(good).toMatchObject({ state: 'succeeded', exit_code: 3, attempt: 1, epoch: 0 })
    const log = await readFile(join(b.layout.outputJobs, good.id, 'log'), 'utf8')
    expect(log).toContain('hello\n')
    expect(log).toContain('good\n')
    expect(await endOf(b, 'bad')).toMatchObject({ state: 'failed', exit_code: 4 })
    expect(await readFile(join(b.layout.output, 'bad.error'), 'utf8')).toMatch(
      /exit code 4; expected was exit code 0(?:.|\n)*broken/,
    )
    expect(await endOf(b, 'none')).toMatchObject({ state: 'failed' })
    expect(await readJson(join(b.layout.output, 'none.result.json'))).toMatchObject({ error: { code: 'spawn-failed' } })
    await until('each end is told', async () => (await eventsOf(b, 'finished')).length === 3)
  })

  test('retries what its manifest wants retried, with growing waits, then fails', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    await drop(b, commandManifest('again', ['false'], { retry: { max_attempts: 2, delay: 0.5, factor: 3 } }))
    const { id, ...again } = await endOf(b, 'again')
    expect(again).toMatchObject({ state: 'failed', attempt: 3, epoch: 2 })
    // the log says it in the moment in which it is decided
    const log = await readFile(join(b.layout.outputJobs, id, 'log'), 'utf8')
    const waits = [...log.matchAll(/^(\S+) agent F failed: .* Next attempt at (\S+),/gm)].map(
      ([, at, due]) => Date.parse(due!) - Date.parse(at!),
    )
    expect(waits).toHaveLength(2)
    expect(waits[1]! - waits[0]!).toBeGreaterThan(500) // 1 s more, but for a pause between the two
    expect(await eventsOf(b, 'retrying')).toHaveLength(2)
  })

  test('ends a job at its timeout, and says that it was that', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    await b.start()
    await sleeping(b, 'slow', { timeout: 0.3 })
    expect(await endOf(b, 'slow')).toMatchObject({ state: 'failed' })
    expect(await readFile(join(b.layout.output, 'slow.error'), 'utf8')).toContain('longer than its timeout of 0.3 s')
    expect(sleepers(b)).toEqual([])
  })

  test('pause holds what waits and says so, over a restart; resume lets it go', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    const first = await b.start()
    expect(await say(b, 'status')).toMatchObject({ status: 'ok', paused: false, draining: false })
    expect(await say(b, 'pause')).toEqual({ status: 'ok', message: 'Daemon paused' })
    expect(await say(b, 'pause')).toEqual({ status: 'ok', message: 'Daemon paused' })
    await drop(b, commandManifest('held', ['true']))
    const told = await until('it says why it waits', async () => {
      const s = await statusOf(b, 'held')
      return String(s?.waiting_on).includes('paused') ? s : undefined
    })
    expect(told.state).toBe('queued')
    await first.stop()
    await b.start()
    expect(await say(b, 'status')).toMatchObject({ paused: true, queued: 1, running: 0 })
    expect((await statusOf(b, 'held'))?.state).toBe('queued')
    expect(await say(b, 'resume')).toEqual({ status: 'ok', message: 'Daemon resumed' })
    expect(await endOf(b, 'held')).toMatchObject({ state: 'succeeded' })
  })

  test('drain finishes what runs, begins nothing, and ends the agent', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { concurrency: { weight: 1 } })
    const agent = await b.start()
    await drop(b, commandManifest('now', ['sh', '-c', `until [ -e ${dir.path}/go ]; do sleep 0.05; done`]))
    await running(b, 'now')
    await drop(b, commandManifest('later', ['true']))
    await until('the second waits', async () => (await statusOf(b, 'later'))?.state === 'queued')
    expect(await say(b, 'drain')).toEqual({ status: 'ok', message: 'Draining queue' })
    expect(await say(b, 'status')).toMatchObject({ draining: true })
    await writeFile(join(dir.path, 'go'), '')
    expect(await agent.exited).toEqual({ code: 0, signal: null })
    expect(await statusOf(b, 'now')).toMatchObject({ state: 'succeeded' })
    expect(await statusOf(b, 'later')).toMatchObject({ state: 'queued' })
    expect(await readdir(b.layout.claimed)).toEqual([])
  })

  test('TERM leaves commands to the next agent at once: it takes them up, and they never notice', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { drain: { timeout: 3600 } })
    const first = await b.start()
    const go = join(dir.path, 'go')
    const argv = ['sh', '-c', `echo first; while [ ! -e ${go} ]; do sleep 0.05; done; echo last; exit 3`]
    await drop(b, commandManifest('job', argv, { command: { argv, expected_exit_codes: [3] } }))
    const pid = Number(await until('its process is known', async () => (await statusOf(b, 'job'))?.pid))
    first.signal('SIGTERM')
    expect(await first.exited).toEqual({ code: 0, signal: null })
    expect(await statusOf(b, 'job')).toMatchObject({
      state: 'queued',
      reason: expect.stringMatching(/goes on without it/),
    })
    expect(identify(pid)).toBeDefined()
    expect(await readdir(b.layout.claimed)).toEqual([])
    expect((await readdir(b.layout.new)).every((f) => /~1\.0\.0\.json$/.test(f))).toBe(true)
    const second = await b.start()
    const again = await until('it runs again', async () => {
      const s = await statusOf(b, 'job')
      return s?.state === 'running' && s.pid !== undefined && s
    })
    expect(again).toMatchObject({ pid, epoch: 1 })
    await second.kill()
    await writeFile(go, '') // it ends while no agent is there
    await until('it has ended', () => identify(pid) === undefined)
    await b.start()
    expect(await endOf(b, 'job')).toMatchObject({ state: 'succeeded', exit_code: 3, pid, epoch: 2 })
    const log = await readFile(join(b.layout.outputJobs, (await statusOf(b, 'job'))!.id, 'log'), 'utf8')
    expect(log.match(/stdout F (first|last)$/gm)).toHaveLength(2)
  })

  test('stop on the socket answers first, then ends like TERM', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { drain: { timeout: 0.2 } })
    const agent = await b.start()
    await sleeping(b, 'x')
    await until('its child runs', () => sleepers(b).length === 1)
    await running(b, 'x')
    expect(await say(b, 'stop')).toEqual({ status: 'ok', message: 'Stopping daemon' })
    expect(await agent.exited).toEqual({ code: 0, signal: null })
    expect(sleepers(b)).toHaveLength(1)
    await expect(say(b, 'status')).rejects.toThrow(/ENOENT/)
  })

  test('a killed one is succeeded at once: lock, socket, claims, and the commands that it carried', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path) // with the standard lease of 30 s: nobody waits for that
    const first = await b.start()
    await sleeping(b, 'long')
    await running(b, 'long')
    await until('its child runs', () => sleepers(b).length === 1)
    const [left] = sleepers(b)
    await first.kill()
    expect(identify(left!.pid)).toBeDefined()
    const second = await b.start()
    expect(await say(b, 'status')).toMatchObject({ pid: second.pid })
    const again = await until('the job runs again', async () => {
      const s = await statusOf(b, 'long')
      return s?.epoch === 1 && s.state === 'running' && s.pid !== undefined && s
    })
    expect(again).toMatchObject({ attempt: 2, pid: left!.pid })
    expect(sleepers(b)).toEqual([left])
  })

  test('a cancel reaches a command that runs while its job waits for an agent', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path)
    const first = await b.start()
    await sleeping(b, 'long')
    await until('its child runs', () => sleepers(b).length === 1)
    first.signal('SIGTERM')
    await first.exited
    const { id } = (await statusOf(b, 'long'))!
    await writeFile(join(b.layout.control, `cancel-${id}.json`), JSON.stringify({ by: 'the test' }))
    await b.start()
    expect(await endOf(b, 'long')).toMatchObject({ state: 'cancelled', reason: 'The job was cancelled by the test.' })
    expect(sleepers(b)).toEqual([])
  })

  test('a worker works beside it, answers for itself, and needs no socket to be stopped', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { concurrency: { weight: 1 } })
    await b.start()
    const worker = await b.start({ worker: true })
    await sleeping(b, 'one')
    await running(b, 'one')
    await sleeping(b, 'two')
    await running(b, 'two')
    const owners = await Promise.all(['one', 'two'].map(async (n) => (await statusOf(b, n))?.owner))
    expect(new Set(owners).size).toBe(2)
    const run = join(await socketOf(b), '..')
    const health = await get(join(run, `worker-${worker.pid}.sock`), '/health')
    expect(JSON.parse(health.body)).toMatchObject({ status: 'ok', running: 1 })
    await drop(b, commandManifest('unused', ['true'], { priority: 9 }))
    worker.signal('SIGTERM')
    await until('it drains', () => worker.output().includes('agent.draining'))
    worker.signal('SIGTERM')
    expect((await worker.exited).code).toBe(0)
    expect(await readdir(run)).not.toContain(`worker-${worker.pid}.sock`)
  })

  test('HUP changes what may change, keeps the rest, and survives a broken file', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { concurrency: { weight: 1 } })
    const agent = await b.start()
    await sleeping(b, 'one')
    await running(b, 'one')
    await sleeping(b, 'two')
    await until('the second waits for the first', async () =>
      String((await statusOf(b, 'two'))?.waiting_on).includes('a free slot'),
    )
    await writeFile(join(dir.path, 'agent.yaml'), 'concurrency:\n  weigth: 2\n')
    agent.signal('SIGHUP')
    await until('the broken file is refused', () => agent.output().includes('config.refused'))
    expect(agent.output()).toContain('concurrency.weight')
    await writeFile(join(dir.path, 'agent.yaml'), 'concurrency:\n  weight: 2\nlease:\n  timeout: 60\n')
    agent.signal('SIGHUP')
    await running(b, 'two')
    expect(agent.output()).toMatch(/"need_restart":\["lease.timeout"\]/)
    expect(await say(b, 'reload')).toMatchObject({ status: 'ok', message: /nothing changed/ })
  })

  test('USR1 logs the statistics; stats.json and the socket tell the same, also after a restart', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { stats: { interval: 0.2 } })
    const agent = await b.start()
    for (const n of ['a', 'b', 'c']) await drop(b, commandManifest(n, [n === 'c' ? 'false' : 'true']))
    for (const n of ['a', 'b', 'c']) await endOf(b, n)
    const counted = { total_processed: 2, total_failed: 1, success_rate_percent: 66.67 }
    await until('all three are counted', async () => {
      const { stats } = (await say(b, 'stats')) as { stats: { total_processed: number; total_failed: number } }
      return stats.total_processed + stats.total_failed === 3
    })
    expect(await say(b, 'stats')).toMatchObject({ status: 'ok', stats: counted })
    agent.signal('SIGUSR1')
    await until('they are logged', () => agent.output().includes('"event":"stats"'))
    await until(
      'they are saved',
      async () => (await readJson(join(b.layout.daemon, 'stats.json')))?.total_processed === 2,
    )
    await agent.kill()
    await b.start()
    expect(await say(b, 'stats')).toMatchObject({
      stats: { ...counted, by_file_type: { command: { processed: 2, failed: 1 } } },
    })
  })

  test('health, ready, live and metrics', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { metrics: { listen: '127.0.0.1:0' } })
    const agent = await b.start()
    await drop(b, commandManifest('m', ['true']))
    await endOf(b, 'm')
    const run = join(await socketOf(b), '..')
    expect((await stat(join(run, 'control.sock'))).mode & 0o777).toBe(0o660)
    const health = await get(join(run, 'health.sock'), '/health')
    expect(JSON.parse(health.body)).toMatchObject({ status: 'ok', instance: b.instance, running: 0 })
    expect((await get(join(run, 'health.sock'), '/ready')).code).toBe(200)
    expect((await get(join(run, 'health.sock'), '/live')).code).toBe(200)
    const metrics = await until('the job is counted', async () => {
      const { body } = await get(join(run, 'health.sock'), '/metrics')
      return body.includes('vmspool_jobs_published_total{outcome="done"} 1') && body
    })
    expect(metrics).toContain('vmspool_jobs_finished_total{kind="command",outcome="done"} 1')
    expect(metrics).not.toContain((await statusOf(b, 'm'))!.id)
    // TERM would leave the command and end at once; a drain waits for it
    await drop(b, commandManifest('x', ['sh', '-c', `until [ -e ${dir.path}/go ]; do sleep 0.05; done`]))
    await running(b, 'x')
    expect(await say(b, 'drain')).toMatchObject({ status: 'ok' })
    await until('it is not ready any more', async () => (await get(join(run, 'health.sock'), '/ready')).code === 503)
    await writeFile(join(dir.path, 'go'), '')
    expect(await agent.exited).toEqual({ code: 0, signal: null })
    await expect(readdir(run)).rejects.toThrow('ENOENT')
  })

  test('loses its folders, leaves its command to who took the job over, and goes on under a new name', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, { lease: { timeout: 4 } })
    const agent = await b.start()
    await sleeping(b, 'x', { retry: { max_attempts: 0 } })
    await until('its child runs', () => sleepers(b).length === 1)
    const [before] = sleepers(b)
    // Suspended beyond its lease while another agent takes over, as after a stalled machine.
    agent.signal('SIGSTOP')
    const other = await b.start({ worker: true, config: { lease: { timeout: 4 } } })
    await until('the other one has the job', async () => (await statusOf(b, 'x'))?.epoch === 1)
    agent.signal('SIGCONT')
    await until('it noticed', () => agent.output().includes('owner.started'))
    expect(sleepers(b)).toEqual([before])
    // Its last status may come late, over that of the new attempt; that one stands again soon.
    await until('the status is the new one', async () => {
      const s = await statusOf(b, 'x')
      return s?.state === 'running' && s.epoch === 1 && s.pid === before!.pid
    })
    await drop(b, commandManifest('y', ['true']))
    expect(await endOf(b, 'y')).toMatchObject({ state: 'succeeded' })
    expect(other.alive()).toBe(true)
  })
})
