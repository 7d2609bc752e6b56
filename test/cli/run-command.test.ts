// vmspool run: commands without an agent, started by the real program.
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { getPriority } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { runDefaults, runPlace } from '../../src/client/run-place.ts'
import { loadConfig } from '../../src/config/index.ts'
import { everything, runBed } from '../support/run-bed.ts'
import { until } from '../support/wait.ts'

describe('one command', () => {
  test('prints what Ghost prints, runs in a session of its own, and its end is on record', async () => {
    await using b = await runBed()
    const release = join(b.dir, 'go')
    const script = `ps -o sid= -p $$; pwd; echo to stderr >&2; until test -e ${release}; do sleep 0.05; done; exit 3`
    const r = await b.v(['run', 'sh', '-c', script])
    expect(r).toMatchObject({ code: 0, err: '' })
    const m = /^Started background process:\n {2}Task ID: ([0-9A-Z]{26})\n {2}PID: (\d+)\n {2}Log file: (\S+)\n$/.exec(
      r.out,
    )
    expect(m, r.out).not.toBeNull()
    const [, id, pid, log] = m!
    expect(log).toBe(join(b.layout.outputJobs, id!, 'log'))
    // On record before it ends, as a job without an agent.
    expect(await readdir(b.layout.started)).toEqual([expect.stringContaining(id!)])
    expect(await b.status('sh')).toMatchObject({
      id,
      name: 'sh',
      kind: 'command',
      state: 'running',
      pid: Number(pid),
      cwd: b.dir,
      command: ['sh', '-c', script],
      direct: true,
    })
    await writeFile(release, '')
    expect((await b.v(['wait', id!])).code).toBe(1)
    expect(await b.status(id!.slice(0, 22).toLowerCase())).toMatchObject({
      state: 'failed',
      exit_code: 3,
      reason: expect.stringMatching(/ended with exit code 3; expected was exit code 0\.$/),
    })
    const said = await b.log(id!)
    expect(said.replace(/ /g, '')).toContain(`${pid}\n`)
    expect(said).toContain(`${b.dir}\n`)
    expect(await readFile(log!, 'utf8')).toMatch(/ stderr F to stderr\n/)
    expect(await readdir(b.layout.started)).toEqual([])
    expect(await readdir(b.layout.failed)).toEqual([expect.stringContaining(id!)])
    const result = JSON.parse(await readFile(join(b.layout.outputJobs, id!, 'result.json'), 'utf8'))
    expect(result).toMatchObject({ id, state: 'failed', exit_code: 3, error: { code: 'exit-code' } })
    expect(await b.v(['fsck'])).toMatchObject({ code: 0, out: expect.stringContaining('0 errors') })
  })

  test('-o json is an array of its status; --expect, --name, --timeout and a signal end it as they say', async () => {
    await using b = await runBed()
    const r = await b.v(['run', '-o', 'json', '--name', 'two', '--expect', '0,2', '--', 'sh', '-c', 'exit 2'])
    const [job] = JSON.parse(r.out)
    expect(job).toMatchObject({ schema: 1, name: 'two', kind: 'command', pid: expect.any(Number) })
    expect((await b.v(['wait', 'two'])).code).toBe(0)
    await b.start(['--name', 'late', '--timeout', '300ms', '--kill-signal', 'int', 'sleep', '600'])
    await b.start(['--name', 'struck', 'sh', '-c', 'kill -QUIT $$'])
    expect((await b.v(['wait', 'late', 'struck'])).code).toBe(1)
    expect(await b.status('two')).toMatchObject({ state: 'succeeded', exit_code: 2 })
    expect(await b.status('late')).toMatchObject({
      state: 'failed',
      signal: 'SIGINT',
      reason: expect.stringContaining('timeout of 0.3 s'),
    })
    expect(await b.status('struck')).toMatchObject({ state: 'failed', signal: 'SIGQUIT' })
  })

  test('arguments and options of the command stay its own, whatever is in them', async () => {
    await using b = await runBed()
    const words = ['-c', '--name', 'a  b', '', 'größe 日本', 'it\'s "x"', '$HOME', '*', '--', 'new\nline', '\\']
    const id = await b.start(['printf', '[%s]', ...words])
    await b.v(['wait', id])
    expect(await b.log(id)).toBe(words.map((w) => `[${w}]`).join(''))
    expect((await b.status(id)).command).toEqual(['printf', '[%s]', ...words])
  })

  test('variables reach the command as they are; what looks like a secret is stored nowhere and shown nowhere', async () => {
    await using b = await runBed()
    const show = [
      'sh',
      '-c',
      'printf "[%s]" "$STAGE" "$EMPTY" "$API_TOKEN" "$DB_PASSWORD" "$PERL5OPT" "$LC_ALL" "$NODE_COMPILE_CACHE" "$VMSPOOL_JOB"',
    ]
    const given = ['-e', 'STAGE=a=b', '-e', 'EMPTY=', '-e', 'API_TOKEN=s3same', '-e', 'DB_PASSWORD']
    const id = await b.start([...given, '--name', 'env', ...show], {
      // PERL5OPT would stop a shim that heeds it
      env: { DB_PASSWORD: '0pen', PERL5OPT: '-MNoSuchModule', LC_ALL: 'xx_XX.UTF-8', NODE_COMPILE_CACHE: undefined },
    })
    await b.v(['wait', id])
    expect(await b.log(id)).toBe(`[a=b][][s3same][0pen][-MNoSuchModule][xx_XX.UTF-8][][${id}]`)
    const shown = await b.v(['status', 'env'])
    expect(shown.out).toContain('Environment:  STAGE=a=b EMPTY= API_TOKEN=******** DB_PASSWORD=********\n')
    await b.start(['-e', 'API_TOKEN=s3same', '--name', 'quiet', 'true'])
    await b.v(['wait', 'quiet'])
    await b.v(['cleanup', '--all', '-s', 'failed']) // nothing to do with it, but writes
    const stored = (await everything(b.layout.root)).replaceAll('[s3same][0pen]', '') // its own output
    expect(stored).not.toMatch(/s3same|0pen/)
    expect(stored).toContain('"secret_env":["API_TOKEN","DB_PASSWORD"]')
  })

  test('a file of variables, and limits in front of the command', async () => {
    await using b = await runBed()
    await writeFile(join(b.dir, 'vars'), '# comment\nA="x y"\nPASSWORD=hidden\n')
    const id = await b.start([
      '--env-file',
      'vars',
      '--nice',
      '7',
      '--open-files',
      '77',
      'sh',
      '-c',
      'echo "$A,$PASSWORD,$(nice),$(ulimit -n)"',
    ])
    await b.v(['wait', id])
    expect(await b.log(id)).toBe(`x y,hidden,${Math.min(19, getPriority() + 7)},77\n`)
    const record = await readFile(join(b.layout.done, (await readdir(b.layout.done))[0]!), 'utf8')
    expect(record).not.toContain('hidden')
    expect(JSON.parse(record).manifest.command).toMatchObject({
      env_file: [join(b.dir, 'vars')],
      limits: { nice: 7, open_files: 77 },
    })
    expect(await b.v(['run', '--env-file', 'none', 'true'])).toMatchObject({ code: 74, out: '' })
  })

  test('nothing of the terminal or the pipe of whoever starts it stays with it', async () => {
    await using b = await runBed()
    // cli() waits for both pipes to be closed by all: a command that held them would keep it for ten minutes.
    const id = await b.start(['sleep', '600'])
    expect((await b.v(['run', '--no-fsync', 'sleep 600', 'sleep 600'])).code).toBe(0)
    const { pid } = await b.status(id)
    const links = await Promise.all(
      [0, 1, 2].map((fd) => readFile(`/proc/${pid}/fdinfo/${fd}`, 'utf8').then((t) => /flags:\s+(\d+)/.exec(t)?.[1])),
    )
    expect(links.every((flags) => flags !== undefined)).toBe(true)
  })
})

describe('several commands', () => {
  test('each argument is a whole command; one that cannot start does not stop the others', async () => {
    await using b = await runBed()
    const r = await b.v([
      'run',
      '--name',
      'm',
      `sh -c 'echo "a  b"'`,
      'no-such-program x',
      'printf %s\\ %s one two\\ three',
    ])
    expect(r.code).toBe(1)
    expect(r.out.match(/Started background process:/g)).toHaveLength(2)
    expect(r.err).toMatch(
      /^vmspool: "no-such-program x" could not be started: there is no program "no-such-program" in PATH\. Nothing runs; job [0-9A-Z]{26} is on record as failed\.\n$/,
    )
    await b.v(['wait', 'm-1', 'm-3'])
    expect(await b.log('m-1')).toBe('a  b\n')
    expect(await b.log('m-3')).toBe('one two three')
    expect(await b.status('m-2')).toMatchObject({
      state: 'failed',
      reason: expect.stringContaining('could not be started'),
    })
    const rows = JSON.parse((await b.v(['run', '-o', 'json', 'true ', 'false '])).out)
    expect(rows.map((s: { name: string }) => s.name)).toEqual(['true', 'false'])
  })
})

describe('what cannot be started is a sentence, exit code 1, and on record', () => {
  test.each([
    [['no-such-program', 'x'], 'there is no program "no-such-program" in PATH'],
    [['/no/such/file'], 'there is no file /no/such/file'],
    [['/etc/passwd'], '/etc/passwd may not be executed by this user, or is no program'],
    [
      ['-c', '/no/such/folder', 'true'],
      'its working directory /no/such/folder cannot be entered (No such file or directory)',
    ],
    [
      ['--stdin', '/no/such/input', 'true'],
      'its standard input /no/such/input cannot be opened (No such file or directory)',
    ],
  ])('%j', async (args, why) => {
    await using b = await runBed()
    const r = await b.v(['run', ...args])
    expect(r).toMatchObject({ code: 1, out: '' })
    expect(r.err).toContain(`could not be started: ${why}. Nothing runs; job `)
    const jobs = JSON.parse((await b.v(['list', '-o', 'json'])).out)
    expect(jobs).toMatchObject([{ state: 'failed', reason: expect.stringContaining(why), direct: true }])
    expect(jobs[0].pid).toBeUndefined()
    expect(await readdir(b.layout.started)).toEqual([])
  })
})

describe('usage', () => {
  test.each([
    [[], 'there is no command to run'],
    [['--nmae', 'x', 'true'], "unknown option '--nmae'"],
    [['-x', 'true'], "unknown option '-x'"],
    [['--name'], "option '--name' needs a value: <name>"],
    [['--no-fsync=1', 'true'], "option '--no-fsync=1' takes no value"],
    [["echo 'a", 'x y'], "the quote ' at character 6 is not closed"],
    [['true ', ''], 'the command "" is empty'],
    [['-e', '=x', 'true'], 'option \'-e, --env\' is "=x"'],
    [['-e', 'NOT_SET_ANYWHERE', 'true'], 'names NOT_SET_ANYWHERE, which is not set here'],
    [['--expect', '0,x', 'true'], 'option \'--expect\' is "0,x"'],
    [['-o', 'xml', 'true'], 'option \'-o, --output\' cannot be "xml"'],
    [['--timeout', 'soon', 'true'], 'option \'--timeout\' is "soon"'],
    [['--name', 'a/b', 'true'], 'option \'--name\': "a/b" cannot name'],
    [['--kill-signal', 'STOP', 'true'], 'option \'--kill-signal\' is "STOP"'],
    [['--memory', 'much', 'true'], 'option \'--memory\' is "much"'],
  ])('%j ends with 2 and starts nothing', async (args, text) => {
    await using b = await runBed()
    const r = await b.v(['run', ...args])
    expect(r).toMatchObject({ code: 2, out: '' })
    expect(r.err).toContain(text)
    expect(r.err).not.toMatch(/\n\s+at /)
    expect(await readdir(b.dir)).toEqual([])
  })
})

describe('where jobs go', () => {
  test('the short way has the same settings as the configuration has without any file', async () => {
    const { config } = loadConfig({ instance: 'default', env: { VMSPOOL_CONFIG_DIR: '/nonexistent' } })
    expect(runDefaults).toEqual({
      log: {
        max_bytes: config.logs.max_bytes,
        max_age_ms: config.logs.max_age,
        total_bytes: config.logs.total_bytes,
      },
      kill_grace_ms: config.timeouts.kill_grace,
    })
  })

  test('configuration files and variables are heeded', async () => {
    await using b = await runBed()
    await writeFile(join(b.dir, 'agent.yaml'), 'logs:\n  max_bytes: 1M\ntimeouts:\n  kill_grace: 3s\n')
    const before = { ...process.env }
    try {
      process.env.VMSPOOL_CONFIG_DIR = b.dir
      process.env.VMSPOOL_ROOT = b.layout.root
      process.env.VMSPOOL_INSTANCE = 'other'
      const place = await runPlace()
      expect(place).toMatchObject({ log: { max_bytes: 2 ** 20 }, kill_grace_ms: 3000 })
      expect(place.layout.outputJobs).toBe(join(b.layout.root, 'other/output/jobs'))
    } finally {
      for (const name of ['VMSPOOL_CONFIG_DIR', 'VMSPOOL_ROOT', 'VMSPOOL_INSTANCE'])
        if (before[name] === undefined) delete process.env[name]
        else process.env[name] = before[name]
    }
  })

  test('a spool that may not be written is said, 77', async (t) => {
    if (process.getuid?.() !== 0) return t.skip('only root can make a folder that the test may enter and not write')
    await using b = await runBed()
    await b.start(['true'])
    await until('it has ended', async () => (await b.status('true')).state === 'succeeded')
    const { spawnSync } = await import('node:child_process')
    spawnSync('chmod', ['-R', 'a+rX', b.dir])
    const r = spawnSync('setpriv', ['--reuid=65534', '--regid=65534', '--clear-groups', 'bin/vmspool', 'run', 'true'], {
      env: { ...process.env, ...b.env, HOME: b.dir },
      encoding: 'utf8',
      cwd: join(import.meta.dirname, '../..'),
    })
    expect(r.status, r.stderr).toBe(77)
    expect(r.stderr).toContain(
      'may not be written by this user (EACCES), so nothing can be started in the spool "default"',
    )
  })
})
