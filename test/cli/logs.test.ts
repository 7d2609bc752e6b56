// `vmspool logs` as a command, on logs that real programs write under the shim, with and without an agent.
import { spawn } from 'node:child_process'
import { readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { bed, vmspool } from '../support/agent.ts'
import { commandManifest, writeManifest } from '../support/manifests.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

interface Output {
  code: number | null
  out: Buffer
  err: string
}

/** The command line in a private home, with its output as bytes. */
function lineOf(dir: string, more: NodeJS.ProcessEnv = {}) {
  const env: NodeJS.ProcessEnv = { ...process.env, VMSPOOL_ROOT: join(dir, 'spool'), NO_COLOR: '1', ...more }
  for (const name of Object.keys(env)) if (/^(VITEST|NODE_ENV|VMSPOOL_INSTANCE)/.test(name)) delete env[name]
  return (args: readonly string[], onOutput?: (out: Buffer) => void): Promise<Output> =>
    new Promise((resolve, reject) => {
      const child = spawn(vmspool, args, { cwd: dir, env, stdio: ['ignore', 'pipe', 'pipe'] })
      let out = Buffer.alloc(0)
      let err = ''
      child.stdout.on('data', (d: Buffer) => {
        out = Buffer.concat([out, d])
        onOutput?.(out)
      })
      child.stderr.setEncoding('utf8').on('data', (d: string) => {
        err += d
      })
      child.on('error', reject)
      child.on('close', (code) => resolve({ code, out, err }))
    })
}

const outputOf = (dir: string) => join(dir, 'spool/default/output')

async function logOf(dir: string): Promise<string> {
  const ids = (await readdir(join(outputOf(dir), 'jobs'))).sort()
  return join(outputOf(dir), 'jobs', ids.at(-1)!, 'log')
}

describe('what a command wrote', () => {
  test('comes out byte for byte, whatever its encoding, and marked where that is asked for', async () => {
    await using dir = await tempDir()
    const line = lineOf(dir.path)
    const out = Buffer.concat([
      Buffer.from('caf\xe9\n', 'latin1'),
      Buffer.from('wide\n', 'utf16le'),
      Buffer.from([0, 1, 2, 10, 10, 255, 254]),
      Buffer.from('grüße\nno end'),
    ])
    const err = Buffer.from('to stderr\nhalf')
    await writeFile(join(dir.path, 'out'), out)
    await writeFile(join(dir.path, 'err'), err)
    expect((await line(['run', '--name', 'bytes', 'sh', '-c', 'cat out; cat err >&2'])).code).toBe(0)
    const all = await line(['logs', '-f', 'bytes'])
    expect(all, all.err).toMatchObject({ code: 0, err: expect.stringContaining('succeeded') })
    expect(all.out.length).toBe(out.length + err.length)
    expect((await line(['logs', 'bytes', '--stream', 'stdout'])).out.equals(out)).toBe(true)
    expect((await line(['logs', 'bytes', '--stream', 'stderr'])).out.equals(err)).toBe(true)

    const raw = (await line(['logs', 'bytes', '--raw'])).out
    expect(raw.equals(await readFile(await logOf(dir.path)))).toBe(true)
    expect(raw.toString('latin1')).toMatch(/^\S{24} stderr F to stderr\n\S{24} stderr P half\n/m)

    const objects = (await line(['logs', 'bytes', '-o', 'json'])).out.toString().trimEnd().split('\n')
    const parsed = objects.map((o) => JSON.parse(o)).filter((o) => o.stream === 'stdout')
    expect(parsed.every((o) => /^\d{4}-.*Z$/.test(o.time))).toBe(true)
    const again = parsed.map((o) =>
      Buffer.concat([
        o.bytes === undefined ? Buffer.from(o.text) : Buffer.from(o.bytes, 'base64'),
        Buffer.from(o.partial ? '' : '\n'),
      ]),
    )
    expect(Buffer.concat(again).equals(out)).toBe(true)
    expect(parsed.at(0)).toMatchObject({ bytes: Buffer.from('caf\xe9', 'latin1').toString('base64') })
    expect(parsed.at(-1)).toMatchObject({ text: 'no end', partial: true })

    const timed = (await line(['logs', 'bytes', '-t', '--stream', 'stderr'])).out.toString()
    expect(timed).toMatch(/^\S{24} to stderr\n\S{24} half$/)
    expect((await line(['logs', 'bytes', '-n', '2', '--stream', 'stderr'])).out.toString()).toBe('to stderr\nhalf')
    expect((await line(['logs', 'bytes', '-n', '1', '--stream', 'stderr'])).out.toString()).toBe('half')
    expect(await line(['logs', 'bytes', '--stream', 'stdin'])).toMatchObject({ code: 2 })
    expect(await line(['logs', 'bytes', '--raw', '-t'])).toMatchObject({ code: 2 })
    expect(await line(['logs', 'bytes', '--raw', '-o', 'json'])).toMatchObject({ code: 2 })
  })

  test('is coloured on a terminal where it came from stderr, and nowhere else', async () => {
    await using dir = await tempDir()
    const line = lineOf(dir.path)
    expect((await line(['run', '--name', 'two', 'sh', '-c', 'echo good; echo bad >&2'])).code).toBe(0)
    expect((await line(['logs', '-f', 'two'])).out.toString()).not.toContain('\x1b')
    const { cli } = await import('./run.ts')
    const shown = await cli(['logs', 'two', '--root', join(dir.path, 'spool')], {
      terminal: true,
      env: { VMSPOOL_ROOT: join(dir.path, 'spool') },
    })
    expect(shown.out).toContain('\x1b[31mbad\x1b[0m')
    expect(shown.out).toMatch(/^good\r?$/m)
  })

  test('of an earlier version, without marks, comes as it is', async () => {
    await using dir = await tempDir()
    const line = lineOf(dir.path)
    expect((await line(['run', '--name', 'old', 'true'])).code).toBe(0)
    expect((await line(['wait', 'old'])).code).toBe(0)
    const old = Buffer.from('2026-01-01T00:00:00.000Z vmspool: attempt 1\nout\n\ncaf\xe9 no end', 'latin1')
    await writeFile(await logOf(dir.path), old)
    expect((await line(['logs', 'old'])).out.equals(old)).toBe(true)
    expect((await line(['logs', '-t', '-f', 'old'])).out.equals(old)).toBe(true)
    expect((await line(['logs', '-n', '2', 'old'])).out.toString('latin1')).toBe('\ncaf\xe9 no end')
    expect(await line(['logs', '--stream', 'stdout', 'old'])).toMatchObject({
      out: Buffer.alloc(0),
      err: expect.stringContaining('do not tell the streams apart'),
    })
    const full = spawn('/bin/sh', ['-c', `exec ${vmspool} logs old --root ${dir.path}/spool >/dev/full`], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let said = ''
    full.stderr.on('data', (d) => {
      said += d
    })
    expect(await new Promise((resolve) => full.on('close', resolve))).toBe(74)
    expect(said).toMatch(/^vmspool: What it prints cannot be written: ENOSPC/)
    await rm(await logOf(dir.path))
    expect(await line(['logs', 'old'])).toMatchObject({
      code: 0,
      out: Buffer.alloc(0),
      err: expect.stringContaining('has written no log (state: succeeded)'),
    })
  })
})

describe('following', () => {
  test('numbered lines over many rotations: all of them, in order, as they come; it ends with the job', async () => {
    await using dir = await tempDir()
    await using b = await bed(dir.path, {
      logs: { max_bytes: '30K', total_bytes: '64M' },
      retry: { max_attempts: 0 },
    })
    const run = lineOf(dir.path, b.env)
    const line = (args: string[], on?: (out: Buffer) => void) =>
      run([args[0]!, '--instance', b.instance, '--root', b.dir, ...args.slice(1)], on)
    await b.start()
    const go = join(dir.path, 'go')
    // It goes on in the middle only when it was seen that far, and fails at its end.
    const talk = `$| = 1; for my $i (0 .. 29_999) {
      print "line $i of it\\n"; print STDERR "err $i\\n" if $i % 10 == 0;
      select undef, undef, undef, 0.01 if $i % 1500 == 0;
      if ($i == 15_000) { select undef, undef, undef, 0.02 until -e '${go}' }
    } exit 3`
    const file = await writeManifest(dir.path, commandManifest('talk', ['perl', '-e', talk]), 'talk.json')
    expect((await line(['submit', file])).code).toBe(0)
    let seen = false
    const [text, out] = await Promise.all([
      line(['logs', '-f', 'talk'], (all) => {
        if (seen || !all.includes('line 15000 of it\n')) return
        seen = true
        void writeFile(go, '')
      }),
      line(['logs', '-f', '--stream', 'stdout', 'talk']),
    ])
    expect(seen).toBe(true)
    for (const followed of [text, out])
      expect(followed).toMatchObject({ code: 1, err: expect.stringContaining('expected was exit code 0') })
    let wanted = ''
    for (let i = 0; i < 30_000; i++) wanted += `line ${i} of it\n`
    expect(out.out.toString() === wanted).toBe(true)
    const lines = text.out.toString().split('\n')
    expect(lines.filter((l) => l.startsWith('err ')).length).toBe(3_000)
    expect(text.out.toString()).toMatch(/^\S{24} vmspool: attempt 1 /m)
    expect(text.out.toString()).toMatch(/^\S{24} vmspool: failed after /m)

    const [id] = await readdir(b.layout.outputJobs)
    const files = await readdir(join(b.layout.outputJobs, id!))
    // as much as a pipe holds may come at once, and is not divided
    expect(files.filter((f) => /^log\.\d+\.gz$/.test(f)).length).toBeGreaterThan(5)
    expect(files.filter((f) => /^log\.\d+$/.test(f))).toEqual([])
    const last = await line(['logs', '-n', '4000', '--stream', 'stdout', 'talk'])
    expect(last.out.toString() === wanted.split('\n').slice(-4001).join('\n')).toBe(true)
  })

  test('survives that the log is cut, and ends when its job is removed', async () => {
    await using dir = await tempDir()
    const line = lineOf(dir.path)
    const script =
      'echo before; until test -e go; do sleep 0.02; done; echo after; until test -e end; do sleep 0.02; done'
    expect((await line(['run', '--name', 'cut', 'sh', '-c', script])).code).toBe(0)
    const followed = line(['logs', '-f', 'cut'], (out) => {
      if (out.toString() === 'before\n') void truncate(path, 0).then(() => writeFile(join(dir.path, 'go'), ''))
      if (out.toString() === 'before\nafter\n') void writeFile(join(dir.path, 'end'), '')
    })
    const path = await logOf(dir.path)
    expect(await followed).toMatchObject({ code: 0, err: expect.stringContaining('The log was cut') })
    expect((await followed).out.toString()).toBe('before\nafter\n')

    expect((await line(['run', '--name', 'gone', 'sh', '-c', 'echo here; exec sleep 600'])).code).toBe(0)
    const log = await logOf(dir.path)
    const shim = JSON.parse(await readFile(join(log, '../run/process.json'), 'utf8'))
    try {
      let removed: Promise<void> | undefined
      const gone = await line(['logs', '-f', 'gone'], () => {
        removed ??= rm(join(log, '..'), { recursive: true })
      })
      await removed
      expect(gone).toMatchObject({ code: 1, err: expect.stringContaining('was removed') })
      expect(gone.out.toString()).toBe('here\n')
    } finally {
      process.kill(shim.pid, 'SIGKILL')
      await until('its shim has ended', async () => {
        try {
          process.kill(shim.shim.pid, 0)
          return false
        } catch {
          return true
        }
      })
    }
  })

  test('ends when the shim was killed and can write no end', async () => {
    await using dir = await tempDir()
    const line = lineOf(dir.path)
    expect((await line(['run', '--name', 'lost', 'sh', '-c', 'echo here; exec sleep 600'])).code).toBe(0)
    const shim = JSON.parse(await readFile(join(await logOf(dir.path), '../run/process.json'), 'utf8'))
    try {
      const lost = await line(['logs', '-f', 'lost'], () => {
        process.kill(shim.shim.pid, 'SIGKILL')
        process.kill(shim.pid, 'SIGKILL')
      })
      expect(lost).toMatchObject({ code: 1, err: expect.stringContaining(' failed: ') })
      expect(lost.out.toString()).toBe('here\n')
    } finally {
      try {
        process.kill(shim.pid, 'SIGKILL')
      } catch {
        // it has ended
      }
    }
  })
})
