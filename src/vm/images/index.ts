/**
 * The image cache: templates of the configuration and images that were put in by hand, as read-only files that VMs are based on through
 * hard links. The files are the truth; there is no database. Layout and rules: docs/images.md.
 */
import { join, resolve } from 'node:path'
import type { Config, Template } from '../../config/index.ts'
import { VmError } from '../types.ts'
import { cleanCache, makeRoom } from './clean.ts'
import { writeRecord } from './record.ts'
import { fetchImage } from './fetch.ts'
import { codeOf, makeFolders } from './files.ts'
import { linkImage } from './link.ts'
import { briefLock } from './lock.ts'
import { BY_HAND, originOf, requireName } from './names.ts'
import { removeImages } from './remove.ts'
import { asImage, currentOf, type Entry, scan } from './scan.ts'
import { spaceGate } from './space.ts'
import { versionOfFile } from './take.ts'
import type { CachedImage, ImageHooks, ImagesOptions, ImageStore } from './types.ts'

export { shown } from './names.ts'
export type { CachedImage, ImageHooks, ImageStore } from './types.ts'

/**
 * Where the images of an agent lie. Beside its VMs unless configured: there hard links can be made. (A service may write to each of its folders
 * through a mount of its own, and links do not cross mounts, even of one file system.)
 */
export function imagesDir(config: Pick<Config, 'images'>, vmDir: string): string {
  return config.images.dir ?? join(vmDir, '.images')
}

export function openImages(options: ImagesOptions): ImageStore {
  const dir = resolve(options.dir)
  /** As the settings are now: a reload of the configuration may change them. */
  const settings = () => ({
    reserve_bytes: 0,
    max_virtual_size: 64 * 2 ** 40,
    no_progress_ms: 60_000,
    retry_ms: 1000,
    stale_ms: 15_000,
    ...options,
    dir,
  })
  const { log } = options
  const templateOf = (name: string): Template | undefined => {
    const { templates } = options
    return Object.hasOwn(templates, name) ? templates[name] : undefined
  }
  const seen = (only?: string, signal?: AbortSignal): Promise<Entry[]> =>
    scan(dir, {
      max_virtual_size: settings().max_virtual_size,
      ...(only === undefined ? {} : { only }),
      ...(signal ? { signal } : {}),
    })

  /** With the file as it is now, for a path. A file that is away now does not take the image away that was made of it. */
  const current = async (name: string, signal?: AbortSignal): Promise<Entry | undefined> => {
    const t = templateOf(name)
    const entries = await seen(name, signal)
    if (t?.path === undefined) return currentOf(entries, t)
    const file = await versionOfFile(t.path).catch(() => undefined)
    return currentOf(entries, t, file)
  }

  /** Says that an image is in use now, so that nobody removes it before it is linked. */
  const touch = async (name: string, signal?: AbortSignal): Promise<CachedImage | undefined> => {
    const used = async (): Promise<CachedImage | undefined> => {
      const e = await current(name, signal)
      if (!e) return undefined
      e.record.used_at = new Date().toISOString()
      await writeRecord(e.path, e.record, { durable: false }).catch((error) => {
        if (!NO_WRITE.has(codeOf(error) ?? '')) throw error
      })
      return asImage(e, true)
    }
    try {
      await makeFolders(dir)
    } catch {
      return used() // it may only be read
    }
    const held = await briefLock(dir, settings().stale_ms).catch((error) => {
      if (NO_WRITE.has(codeOf(error) ?? '')) return undefined
      throw error
    })
    try {
      return await used()
    } finally {
      await held?.[Symbol.asyncDispose]()
    }
  }

  const fetch = async (
    name: string,
    origin: string,
    template: Template,
    h: ImageHooks,
    there: () => Promise<boolean>,
    known?: Entry,
  ) => {
    const o = settings()
    const result = await fetchImage(
      {
        ...o,
        name,
        origin,
        template,
        there,
        ...(known ? { known: known.record } : {}),
        space: spaceGate(dir, o.reserve_bytes, (bytes) => makeRoom(o, bytes)),
      },
      h,
    )
    if (result === 'fetched') log?.info('image.fetched', { image: name })
    return result
  }

  return {
    dir,
    list: async () => {
      const all = await seen()
      const names = [...new Set(all.map((e) => e.record.name))].sort()
      const lists = await Promise.all(
        names.map(async (name) => {
          const now = await current(name)
          return all
            .filter((e) => e.record.name === name)
            .map((e) => asImage(e, e.path === now?.path))
            .sort((a, b) => Number(b.current) - Number(a.current) || (a.added_at < b.added_at ? 1 : -1))
        }),
      )
      return lists.flat()
    },

    get: async (name, h) => {
      requireName(name)
      const t = templateOf(name)
      const before = await touch(name, h.signal)
      if (before && t?.format !== undefined && t.format !== before.format) throw misnamed(before, t.format)
      if (before && !(h.refresh && t?.url !== undefined && t.checksum === undefined)) return before
      if (!t) throw unknown(name, Object.keys(options.templates))
      const origin = originOf(t)
      const known = before ? currentOf(await seen(name, h.signal), t) : undefined
      const result = await fetch(
        name,
        origin,
        t,
        h,
        async () => before === undefined && (await touch(name, h.signal)) !== undefined,
        known,
      )
      const image = await touch(name, h.signal)
      if (!image)
        throw new VmError(`The image ${name} was fetched, and is not in the cache ${dir} any more.`, {
          code: 'storage',
          transient: true,
          hint: 'Look whether something else removes files there.',
        })
      if (result === 'fetched') await cleanCache(settings())
      return image
    },

    link: (image, target, h) => linkImage(image, target, { ...h, reserve_bytes: settings().reserve_bytes }),

    add: async (name, source, h) => {
      requireName(name)
      const configured = templateOf(name)
      if (
        configured &&
        (configured.checksum === undefined || (h.checksum ?? configured.checksum) !== configured.checksum)
      )
        throw new VmError(
          `${name} is a template of the configuration, so it cannot be added by hand${configured.checksum === undefined ? '' : ' with another checksum'}.`,
          {
            code: 'vm-conflict',
            hint: 'Choose another name, change the template, or give it a checksum: a file that has it may then be added by hand.',
          },
        )
      const url = /^https?:\/\//i.test(source)
      const checksum = h.checksum ?? configured?.checksum
      const format = h.format ?? configured?.format
      const template: Template = {
        ...(url ? { url: source } : { path: resolve(source) }),
        ...(checksum === undefined ? {} : { checksum }),
        ...(format === undefined ? {} : { format }),
      }
      await fetch(name, configured ? originOf(configured) : BY_HAND, template, h, async () => false)
      const image = await touch(name, h.signal)
      if (!image)
        throw new VmError(`The image ${name} was added, and is not in the cache ${dir} any more.`, { code: 'storage' })
      await cleanCache(settings())
      return image
    },

    remove: (name, r = {}) => removeImages(settings(), name, r.vm_dirs ?? []),
    clean: () => cleanCache(settings()),
  }
}

const NO_WRITE = new Set(['EACCES', 'EPERM', 'EROFS', 'ENOENT', 'ENOSPC', 'EDQUOT'])

function misnamed(image: CachedImage, format: string): VmError {
  return new VmError(`The template ${image.name} is configured as ${format}, but the image is ${image.format}.`, {
    code: 'image-invalid',
    hint: `Set its format to ${image.format}, or leave it out.`,
  })
}

function unknown(name: string, templates: readonly string[]): VmError {
  return new VmError(`There is no image ${name}.`, {
    code: 'image-not-found',
    hint:
      templates.length === 0
        ? 'The configuration has no templates: add some, or take an image in with "vmspool image add".'
        : `The configuration has these templates: ${templates.slice(0, 20).join(', ')}. "vmspool image add" takes in others.`,
  })
}
