/** Generated images, stored in the browser's IndexedDB. Without a database, they last as long as the page. */

/** @import { Recipe } from "./recipe.js" */

/**
 * @typedef {object} StoredImage
 * @property {number} id time of creation, in milliseconds; unique and increasing
 * @property {string} model id of the model
 * @property {Recipe} recipe
 * @property {Blob} blob PNG file
 * @property {Blob} [source] PNG file of the original image, if this one was inpainted
 */

const LIMIT = 200;
const STORE = "images";
const VERSION = 2; // counts changes of the stored fields; images of an older version are dropped

/** @type {Promise<IDBDatabase> | undefined} */
let database;

function open() {
  database ??= new Promise((resolve, reject) => {
    const opening = indexedDB.open("llamagen-playground", VERSION);
    opening.onupgradeneeded = () => {
      for (const name of opening.result.objectStoreNames) opening.result.deleteObjectStore(name);
      opening.result.createObjectStore(STORE, { keyPath: "id" });
    };
    opening.onblocked = () => reject(new Error("another tab still shows an older version of this page"));
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error);
  });
  return database;
}

/**
 * Runs `work` on the store in one transaction. Resolves to the result of the request that `work` returned once
 * everything is written, and to undefined if the browser keeps no database.
 * @template T
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest<T> | void} work
 * @returns {Promise<T | undefined>}
 */
async function transact(mode, work) {
  try {
    const transaction = (await open()).transaction(STORE, mode);
    const request = work(transaction.objectStore(STORE));
    return await new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(request?.result);
      transaction.onabort = () => reject(transaction.error);
    });
  } catch (error) {
    console.warn("The history is not stored:", error);
    return undefined;
  }
}

/** @returns {Promise<StoredImage[]>} all images, oldest first */
export async function load() {
  return (await transact("readonly", (store) => store.getAll())) ?? [];
}

/**
 * Stores an image, and deletes the oldest ones beyond the limit.
 * @param {StoredImage} image
 */
export function add(image) {
  return transact("readwrite", (store) => {
    store.put(image);
    const listing = store.getAllKeys();
    listing.onsuccess = () => {
      for (const id of listing.result.slice(0, -LIMIT)) store.delete(id);
    };
  });
}

/** @param {number[]} ids */
export function remove(ids) {
  return transact("readwrite", (store) => {
    for (const id of ids) store.delete(id);
  });
}
