// `vmspool run` without Node (src/cli/run-now.pl): it does what Node does, to the byte, or leaves it to Node.
import { spawnSync } from 'node:child_process'
import { mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { layoutOf, openSpool } from '../../src/spool/index.ts'
import { ulidTime } from '../../src/spool/names.ts'
import { home } from '../support/agent.ts'
import { tempDir } from '../support/temp.ts'
import { until } from '../support/wait.ts'

const perl = '/usr/bin/perl'
const short = join(home, 'src/cli/run-now.pl')
const shim = join(home, 'src/process/shim.pl')

/** Variables of ours alone, and odd ones. */
const variables = (dir: string, more: Record<string, string> = {}): Record<string, string> => ({
  PATH: process.env.PATH!,
  HOME: dir,
  LANG: 'C.UTF-8',
  LC_TIME: 'C',
  NODE_COMPILE_CACHE: join(dir, 'cache/vmspool'),
  ODD: 'a=b&c%d\n ä',
  ...more,
})

interface Become {
  file: string
  args: string[]
  env: Record<string, string>
}

/** What is written, and what is become, with the words that are new each time replaced. */
async function traces(root: string, become: Become): Promise<unknown> {
  const { VMSPOOL_SHIM = '', ...env } = become.env
  const orders = Object.fromEntries(
    VMSPOOL_SHIM.split('&').map((pair) => pair.split('=').map(decodeURIComponent) as [string, string]),
  )
  const { outputJobs, started } = layoutOf({ root, instance: 'default' })
  const [id] = (await readdir(outputJobs)) as [string]
  expect(id).toMatch(/^[0-7][0-9A-HJKMNP-TV-Z]{25}$/)
  expect(orders.id).toBe(id)
  const [record] = (await readdir(started)) as [string]
  const texts = [
    record,
    await readFile(join(started, record), 'utf8'),
    await readFile(join(outputJobs, id, 'status.json'), 'utf8'),
  ]
  const files = (await readdir(root, { recursive: true })).filter((f) => f.includes(id)).sort()
  const all = JSON.stringify({ file: become.file, args: become.args, env, orders, texts, files })
  const { accepted_at } = JSON.parse(texts[2]!)
  expect(Math.floor((Date.parse(accepted_at) - ulidTime(id)) / 60_000)).toBe(0) // the id came first, if not at once
  return JSON.parse(
    all
      .replaceAll(id, '<id>')
      .replaceAll(orders.token!, '<token>')
      .replaceAll(root, '<root>')
      .replaceAll(/\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z/g, '<time>'),
  )
}

const cases: Record<string, [string[], Record<string, string>?]> = {
  'a program and words': [['true', '--root', '-x', '--']],
  'odd words and a name in a folder': [['-o', 'json', '--', '/usr/bin/env', '', "it's", '"\\', '$HOME  *', 'a=b&c%d']],
  'a long command': [['--output=name', '--no-fsync', 'printf', ...Array.from({ length: 30 }, (_, i) => `word ${i}`)]],
  'a program that can name no file': [['-c', '/usr', './+x'], { VMSPOOL_INSTANCE: '' }],
  'a program that a folder is called as': [['--cwd=/', 'jobs'], { NODE_COMPILE_CACHE: '/elsewhere' }],
  'a name of its own': [['--name', `n${'+-._'.repeat(13)}x`, 'sleep', '5']],
}

describe('the short way of run', () => {
  test.for(Object.entries(cases))('%s: the same files, orders and variables', async ([, [args, env]]) => {
    await using temp = await tempDir()
    const stub = join(temp.path, 'stub.pl')
    await writeFile(
      stub,
      `sub j { '"' . join('', map { /[ !#-\\[\\]-~]/ ? $_ : sprintf '\\\\u%04x', ord } split //, shift) . '"' }
       print '{"file":"/usr/bin/perl","args":[', join(',', map j($_), '/usr/bin/perl', '${shim}', @ARGV), '],"env":{', join(',', map j($_) . ':' . j($ENV{$_}), keys %ENV), '}}'`,
    )
    const sides: unknown[] = []
    for (const side of ['node', 'perl']) {
      const root = join(temp.path, side)
      await openSpool({ layout: layoutOf({ root, instance: 'default' }), create: true })
      const o = { cwd: temp.path, env: variables(temp.path, { VMSPOOL_ROOT: root, ...env }), encoding: 'utf8' as const }
      const r =
        side === 'perl'
          ? spawnSync(perl, [short, stub, '/bin/false', 'main', 'run', ...args], o)
          : spawnSync(process.execPath, [join(import.meta.dirname, 'run-orders.process.ts'), ...args], o)
      expect(r.stderr, side).not.toMatch(/^(?!.*(?:ExperimentalWarning|trace-warnings)).+$/m)
      const become: Become = JSON.parse(r.stdout)
      // Perl has bytes.
      if (side === 'perl')
        for (const [k, v] of Object.entries(become.env)) become.env[k] = Buffer.from(v, 'latin1').toString()
      sides.push(await traces(root, become))
    }
    expect(sides[1]).toEqual(sides[0])
  })

  test('is taken for what is plain, and by nothing else: not by options, lines, odd signs, settings or where nothing is yet', async () => {
    await using temp = await tempDir()
    const dir = temp.path
    // A program of its own, with a Node that ends with 99.
    await mkdir(join(dir, 'bin'))
    await mkdir(join(dir, 'node_modules/.bin'), { recursive: true })
    await symlink(join(home, 'src'), join(dir, 'src'))
    await writeFile(join(dir, 'bin/vmspool'), await readFile(join(home, 'bin/vmspool')), { mode: 0o755 })
    await writeFile(join(dir, 'node_modules/.bin/node'), '#!/bin/sh\nexit 99\n', { mode: 0o755 })
    const layout = layoutOf({ root: join(dir, 'spool'), instance: 'default' })
    await openSpool({ layout, create: true })
    const run = (args: string[], env: Record<string, string> = {}) =>
      spawnSync(join(dir, 'bin/vmspool'), ['run', ...args], {
        cwd: dir,
        env: { ...variables(dir, { VMSPOOL_ROOT: layout.root, ...env }) },
        encoding: 'utf8',
      })
    expect(run(['true'])).toMatchObject({ status: 0, stderr: '', stdout: expect.stringMatching(/PID: \d+\n/) })
    expect(run(['-o', 'name', '/nonexistent/program'])).toMatchObject({
      status: 1,
      stdout: '',
      stderr: expect.stringMatching(/^vmspool: "\/nonexistent\/program" could not be started: there is no file /),
    })
    await mkdir(join(dir, 'config/vmspool'), { recursive: true })
    await writeFile(join(dir, 'config/vmspool/agent@two.yaml'), '')
    const long = 'x'.repeat(513)
    const others: [string[], Record<string, string>?][] = [
      [[]],
      [['--help']],
      [['-e', 'A=b', 'true']],
      [['--timeout', '5s', 'true']],
      [['--nonsense', 'true']],
      [['--no-fsync=1', 'true']],
      [['--root']],
      [['-o', 'yaml', 'true']],
      [['--name', 'jobs', 'true']],
      [['--name', 'a/b', 'true']],
      [['true x', 'false y']],
      [['']],
      [['echo', 'ä']],
      [['echo', 'two\nlines']],
      [['echo', long]],
      [Array<string>(65).fill('x')],
      [['--root', 'spool', 'true']],
      [['--root', '/nonexistent/../spool', 'true']],
      [['--root', '/nonexistent', 'true']],
      [['-c', '.', 'true']],
      [['--instance', '../x', 'true']],
      [['--instance', 'two', 'true'], { XDG_CONFIG_HOME: join(dir, 'config') }],
      [['true'], { VMSPOOL_LOGS__MAX_BYTES: '1M' }],
      [['true'], { PERL5OPT: '-w' }],
      [['true'], { LARGE: 'x'.repeat(100_000) }],
    ]
    const { outputJobs, started } = layout
    const before = await readdir(outputJobs)
    for (const [args, env] of others) expect(run(args, env).status, JSON.stringify([args, env])).toBe(99)
    expect(await readdir(outputJobs)).toEqual(before)
    await until('all have ended', async () => (await readdir(started)).length === 0)
  })
})
