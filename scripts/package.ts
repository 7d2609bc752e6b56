/**
 * `npm run package`: builds the program and what others install it from, into packages/ (or --out DIR).
 *
 *   vmspool_VERSION_ARCH.deb             for Debian and Ubuntu; carries everything, needs no npm
 *   vmspool-VERSION-linux-ARCH.tar.gz    the same program for other systems; install.sh is in it
 *   vmspool-VERSION.tgz                  for npm: the program and the library
 *
 *   --only deb,tarball,npm   some of them
 *   --tree DIR               none of them: the program as it is installed, which install.sh copies
 *   --set-version V          another version than package.json's
 *   --compress xz|gzip|none  of the .deb; none is for tests
 *   --no-build               dist/ is there already
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { makeDeb } from './package/deb.ts'
import { makeTree } from './package/tree.ts'

const root = join(import.meta.dirname, '..')
const { values: o } = parseArgs({
  options: {
    out: { type: 'string', default: join(root, 'packages') },
    only: { type: 'string', default: 'deb,tarball,npm' },
    tree: { type: 'string' },
    'set-version': { type: 'string' },
    compress: { type: 'string', default: 'xz' },
    'no-build': { type: 'boolean', default: false },
  },
})
const version = o['set-version'] ?? (JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).version as string)
if (!/^[0-9][A-Za-z0-9.+~-]*$/.test(version)) throw new Error(`"${version}" is no version of a Debian package.`)
if (o.compress !== 'xz' && o.compress !== 'gzip' && o.compress !== 'none')
  throw new Error(`--compress ${o.compress}: choose xz, gzip or none.`)

if (!o['no-build']) build()

if (o.tree !== undefined) await makeTree(root, resolve(o.tree), version)
else await packages(o.only.split(','), resolve(o.out), o.compress)

function build(): void {
  const types = o.tree === undefined && o.only.split(',').includes('npm') ? [] : ['--no-types']
  execFileSync(process.execPath, [join(root, 'scripts/build.ts'), ...types], { stdio: 'inherit' })
}

async function packages(kinds: string[], out: string, compress: 'xz' | 'gzip' | 'none'): Promise<void> {
  mkdirSync(out, { recursive: true })
  const work = mkdtempSync(join(tmpdir(), 'vmspool-package-'))
  try {
    if (kinds.includes('npm')) say(out, npmPack(out))
    if (!kinds.includes('deb') && !kinds.includes('tarball')) return
    const name = `vmspool-${version}-linux-${process.arch}`
    const tree = join(work, name)
    await makeTree(root, tree, version)
    if (kinds.includes('tarball')) {
      const file = join(out, `${name}.tar.gz`)
      const owner = ['--owner=root:0', '--group=root:0', '--sort=name', '--mode=u=rwX,go=rX']
      execFileSync('tar', ['-C', work, ...owner, '-czf', file, name], { stdio: 'inherit' })
      say(out, file)
    }
    if (kinds.includes('deb')) say(out, makeDeb({ root, tree, work, out, version, compress }))
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

function npmPack(out: string): string {
  const argv = ['pack', '--ignore-scripts', '--offline', '--json', '--pack-destination', out]
  const said = execFileSync('npm', argv, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
  return join(out, JSON.parse(said)[0].filename)
}

function say(out: string, file: string): void {
  process.stdout.write(`${file.startsWith(out) ? file : join(out, file)}\n`)
}
