// The npm package as a stranger gets it: packed, installed below node_modules, run and imported there.
import { execFile } from 'node:child_process'
import { cp, mkdir, readdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { home } from '../support/agent.ts'
import { builtCheckout } from '../support/checkout.ts'
import { holds, makeDisk } from '../support/disks.ts'
import { tempDir } from '../support/temp.ts'
import { pane } from '../tui/pane.ts'
import { emptySpool } from '../tui/synthetic.ts'

const exec = promisify(execFile)
const node = join(home, 'node_modules/.bin/node')
/** npm and tsc keep caches in the temporary folder: in ours, they go with it. */
const envIn = (dir: string): NodeJS.ProcessEnv => ({
  ...process.env,
  PATH: `${join(home, 'node_modules/.bin')}:${process.env.PATH}`,
  NO_COLOR: '1',
  TMPDIR: dir,
})

/** Packs a copy of the checkout, unpacks it below node_modules and links the dependencies there. */
async function installed(dir: string): Promise<string> {
  const env = envIn(dir)
  const copy = await builtCheckout(dir, { env, types: true })
  const pack = await exec('npm', ['pack', '--ignore-scripts', '--offline', '--json', '--pack-destination', dir], {
    cwd: copy,
    env,
  })
  const [{ filename }] = JSON.parse(pack.stdout)
  const modules = join(dir, 'project/node_modules')
  await mkdir(modules, { recursive: true })
  await exec('tar', ['-C', modules, '-xzf', join(dir, filename)])
  await exec('mv', [join(modules, 'package'), join(modules, 'vmspool')])
  for (const name of await readdir(join(home, 'node_modules'))) {
    if (name !== 'vmspool') await symlink(join(home, 'node_modules', name), join(modules, name))
  }
  await writeFile(join(dir, 'project/package.json'), '{"name":"stranger","type":"module"}')
  return join(dir, 'project')
}

test('packed, installed and used: program, library, types', { timeout: 600_000 }, async () => {
  await using dir = await tempDir()
  const project = await installed(dir.path)
  const env = envIn(dir.path)
  const root = join(project, 'node_modules/vmspool')
  const files = (await readdir(root, { recursive: true })).sort()
  expect(files.filter((f) => /^(src|test|bench|node_modules)\//.test(f))).toEqual([])
  expect(files).toEqual(
    expect.arrayContaining([
      'README.md',
      'bin/vmspool',
      'dist/index.js',
      'dist/types/index.d.ts',
      'dist/workers/grain-worker.js',
      'dist/workers/hash-worker.js',
      'schemas/convert.schema.json',
    ]),
  )

  // the program, through the link that npm makes, from elsewhere
  await symlink(join(root, 'bin/vmspool'), join(dir.path, 'vmspool'))
  const program = (args: string[]) => exec(join(dir.path, 'vmspool'), args, { env, cwd: dir.path })
  const { version } = JSON.parse(await readFile(join(home, 'package.json'), 'utf8'))
  expect((await program(['--version'])).stdout).toBe(`${version}\n`)
  expect(JSON.parse((await program(['schema', 'convert'])).stdout).title).toBeTruthy()
  await mkdir(join(dir.path, 'disks'))
  // enough grains for threads, whose programs are files of their own in the package; they say so when they cannot start
  const disk = await makeDisk(join(dir.path, 'disks'), 'packed', { size_mib: 40, dense: true })
  const converted = await program(['convert', disk.path, '-o', join(dir.path, 'out'), '--direct'])
  expect(converted.stdout.trimEnd().split('\n').at(-1)).toBe(join(dir.path, 'out/packed.qcow2'))
  expect(await holds(join(dir.path, 'out/packed.qcow2'), 'qcow2', disk)).toBe(true)

  // the terminal UI, whose libraries are loaded from outside of the bundle
  await emptySpool(join(dir.path, 'spools'))
  {
    await using p = await pane(dir.path, { env })
    await p.type(`clear; ${join(dir.path, 'vmspool')} tui --root ${join(dir.path, 'spools')}`)
    await p.keys('Enter')
    await p.sees('No jobs yet.')
    await p.type('q')
    expect(await p.prompt()).toBe(0)
  }

  // commands without an agent: their short way is in the program's first file, the rest and the shim's program beside it
  const background = (args: string[]) => program([args[0]!, '--root', join(dir.path, 'background'), ...args.slice(1)])
  await background(['run', '--name', 'one', '--open-files', '33', 'sh', '-c', 'echo here; ulimit -n'])
  await background(['run', 'true ', "sh -c 'exit 0'"])
  expect((await background(['wait', '-q', 'one', 'true', 'sh'])).stdout).toContain('succeeded')
  expect((await background(['logs', 'one'])).stdout).toBe('here\n33\n')
  expect(await background(['run', 'no-such-program']).catch((e) => e)).toMatchObject({ code: 1 })
  expect(JSON.parse((await background(['list', '-o', 'json'])).stdout)).toHaveLength(4)

  // the library: importing it reads nothing of a spool, starts nothing and lets the program end at once
  await writeFile(
    join(project, 'import.js'),
    `const before = process.getActiveResourcesInfo()
     const { submit, wait, cancel, status } = await import('vmspool')
     for (const f of [submit, wait, cancel, status]) if (typeof f !== 'function') throw new Error(String(f))
     const after = process.getActiveResourcesInfo()
     const loaded = Object.keys((await import('node:module')).createRequire(import.meta.url).cache)
     console.log(JSON.stringify({ before, after, loaded, handlers: process.eventNames() }))
     await status('nothing', { root: process.argv[2], instance: 'none' }).catch((e) => console.log(e.name, e.exitCode))`,
  )
  const { stdout } = await exec(node, ['import.js', join(dir.path, 'no-spools')], { cwd: project, env })
  const [first, second] = stdout.trimEnd().split('\n')
  const seen = JSON.parse(first!)
  expect(seen.after).toEqual(seen.before)
  expect(seen.loaded).toEqual([])
  expect(second).toBe('ClientError 73')
  expect(await readdir(dir.path)).not.toContain('no-spools')

  // its types
  await writeFile(
    join(project, 'use.ts'),
    `import { ClientError, type JobStatus, submit, wait } from 'vmspool'
     export async function run(): Promise<JobStatus['state']> {
       const job = await submit({ manifest_version: '1.0', disks: [] }, { instance: 'x' })
       const ended = await wait(job, { instance: 'x', timeoutMs: 1000, onStatus: (s) => console.log(s.progress?.bytes_done) })
       // @ts-expect-error a state is no number
       const wrong: number = ended.state
       if (wrong) throw new ClientError(1, 'never')
       return ended.state
     }\n`,
  )
  const config = {
    compilerOptions: {
      strict: true,
      noEmit: true,
      module: 'nodenext',
      target: 'es2024',
      lib: ['es2024', 'esnext.disposable'],
      types: ['node'],
      skipLibCheck: false,
    },
    files: ['use.ts'],
  }
  await writeFile(join(project, 'tsconfig.json'), JSON.stringify(config))
  await exec(join(home, 'node_modules/.bin/tsc'), ['-p', project], { env }).catch((e) => {
    throw new Error(`The types do not hold:\n${e.stdout}`)
  })
})

test('in a checkout the sources win over a stale dist', async () => {
  await using dir = await tempDir()
  await mkdir(join(dir.path, 'src/cli'), { recursive: true })
  await mkdir(join(dir.path, 'dist/cli'), { recursive: true })
  await mkdir(join(dir.path, 'bin'))
  await cp(join(home, 'bin/vmspool'), join(dir.path, 'bin/vmspool'))
  await writeFile(join(dir.path, 'package.json'), '{"type":"module"}')
  await writeFile(join(dir.path, 'src/cli/main.ts'), "console.log('source' as string)")
  await writeFile(join(dir.path, 'dist/cli/main.js'), "console.log('stale')")
  const missing = await exec(join(dir.path, 'bin/vmspool')).catch((e) => e)
  expect(missing).toMatchObject({ code: 78, stderr: expect.stringContaining('Run `npm ci` in') })
  await symlink(join(home, 'node_modules'), join(dir.path, 'node_modules'))
  expect((await exec(join(dir.path, 'bin/vmspool'))).stdout).toBe('source\n')
})
