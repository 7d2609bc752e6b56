/**
 * The program as it is installed: one folder with the built program, its own Node, the packages it needs, units, templates, man pages
 * and completions. install.sh copies it, the .deb and the tarball hold it.
 */
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { completions } from './completions.ts'
import { manPages } from './man.ts'
import { runtimeModules } from './modules.ts'

const parts = [
  'bin',
  'dist',
  'schemas',
  'conf',
  'systemd',
  'docs',
  'install',
  'install.sh',
  'README.md',
  'CHANGELOG.md',
  'LICENSE',
]

/** Not for running: TypeScript, maps, manuals; of Node its headers and its npm. */
function wanted(path: string): boolean {
  if (/\/node-linux-[^/]+\/(include|share)$/.test(path)) return false
  return !/\.(map|[cm]?ts|md|markdown)$/.test(path)
}

/** @param root the checkout, built */
export async function makeTree(root: string, to: string, version: string): Promise<void> {
  if (!existsSync(join(root, 'dist/cli/main.js'))) throw new Error(`${root} is not built. Run npm run build.`)
  mkdirSync(to, { recursive: true })
  for (const part of parts) {
    // Declarations are for those who import the package, which comes from npm.
    const filter = (path: string): boolean => path !== join(root, 'dist/types')
    cpSync(join(root, part), join(to, part), { recursive: true, filter })
  }
  for (const path of runtimeModules(root)) {
    const from = join(root, path)
    const filter = (p: string): boolean => p === from || (basename(p) !== 'node_modules' && wanted(p))
    cpSync(from, join(to, path), { recursive: true, filter, dereference: false })
  }
  const arch = process.arch === 'arm64' ? 'arm64' : 'x64'
  mkdirSync(join(to, 'node_modules/.bin'))
  symlinkSync(`../node-linux-${arch}/bin/node`, join(to, 'node_modules/.bin/node'))

  const { name, type, license, description } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  writeFileSync(join(to, 'package.json'), `${JSON.stringify({ name, version, description, license, type }, null, 2)}\n`)

  mkdirSync(join(to, 'share/man'), { recursive: true })
  for (const page of await manPages(version)) {
    writeFileSync(join(to, 'share/man', `${page.file}.gz`), gzipSync(page.text, { level: 9 }))
  }
  const { bash, zsh, fish } = await completions()
  mkdirSync(join(to, 'share/completions'))
  writeFileSync(join(to, 'share/completions/vmspool.bash'), bash)
  writeFileSync(join(to, 'share/completions/_vmspool'), zsh)
  writeFileSync(join(to, 'share/completions/vmspool.fish'), fish)
  chmodSync(to, 0o755)
}
